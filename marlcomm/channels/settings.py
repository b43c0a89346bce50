"""Settings of the built-in channels (no torch here: a bad setting is refused before torch is imported)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from marlcomm.registry import ConfigError, Settings

Schedule = Literal["constant", "linear", "exponential"]


def _falling(end: float, name: str, info: ValidationInfo) -> float:
    """Where the setting `name` ends, which a falling schedule must not raise."""
    first = info.data.get(name)
    if info.data.get(f"{name}_schedule") != "constant" and first is not None and end > first:
        raise ValueError(f"at most channel.{name}, {first:g}, where it falls (nearest: {first:g})")
    return end


class ChannelSettings(Settings):
    """What every channel's settings offer."""

    def fit(self, message_size: int) -> None:
        """Raise `ConfigError` where messages of this size cannot pass."""


class ContinuousSettings(ChannelSettings):
    """float32 numbers as they are."""


class SilentSettings(ChannelSettings):
    """Nothing is sent."""


class VQSettings(ChannelSettings):
    """Vector quantisation: the index of the nearest codeword of each segment."""

    codebook_size: int = Field(16, ge=2, le=2**16, description="L, the codewords of a segment")
    segments: int = Field(1, ge=1, description="G, into how many equal segments a message is cut")
    shared_codebook: bool = Field(False, description="one codebook for all segments instead of one for each")
    codebook_weight: float = Field(1.0, ge=0, description="weight of the loss that pulls codewords to messages")
    commitment_weight: float = Field(0.25, ge=0, description="weight of the loss that pulls messages to codewords")

    def fit(self, message_size: int) -> None:
        if message_size % self.segments:
            divisors = [count for count in range(1, message_size + 1) if message_size % count == 0]
            best = min(divisors, key=lambda count: abs(count - self.segments))
            raise ConfigError(
                f"channel.segments: got {self.segments}, wanted a divisor of policy.message_size "
                f"{message_size} (nearest: {best})"
            )


class TokenSettings(ChannelSettings):
    """What channels of tokens share."""

    vocabulary: int = Field(16, ge=2, le=2**16, description="V, how many values a token has")
    tokens: int = Field(1, ge=1, description="T, how many tokens a message has, or at most has")
    sender: Literal["factorised", "autoregressive"] = Field(
        "factorised",
        description="factorised: every token from the message alone; autoregressive: a GRU reads what it has said",
    )
    sender_size: int = Field(64, ge=1, description="width of the autoregressive sender and of its token embeddings")
    end_token: bool = Field(False, description="whether token 0 ends a message, so that messages may be short")

    @field_validator("end_token")
    @classmethod
    def _has_what_to_end(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("tokens") == 1:
            raise ValueError("false where channel.tokens is 1 (nearest: channel.tokens=2)")
        return value


class GumbelSettings(TokenSettings):
    """Straight-through Gumbel-softmax tokens."""

    temperature: float = Field(1.0, gt=0, description="temperature of the relaxed sample the gradient sees")
    temperature_schedule: Schedule = Field("constant", description="how it falls: constant, linear or exponential")
    temperature_end: float = Field(0.5, gt=0, description="where a falling temperature ends")
    temperature_steps: int = Field(1_000_000, ge=1, description="env steps over which it falls")
    length_weight: float = Field(0.0, ge=0, description="weight of the tokens sent, per token; needs end_token")

    @field_validator("temperature_end")
    @classmethod
    def _falls(cls, value: float, info: ValidationInfo) -> float:
        return _falling(value, "temperature", info)

    @field_validator("length_weight")
    @classmethod
    def _has_a_length(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("end_token") is False:
            raise ValueError("0.0 where channel.end_token is false: all messages are equally long")
        return value


class GRMCKSettings(GumbelSettings):
    """Gumbel-softmax tokens with a Rao-Blackwellised gradient."""

    temperature: float = Field(
        0.5, gt=0, description="temperature of the relaxed samples; the estimator pays off well below 1"
    )
    temperature_end: float = Field(0.1, gt=0, description="where a falling temperature ends")
    samples: int = Field(10, ge=1, le=1000, description="K, over how many noises the gradient is averaged")


class DAPSSettings(TokenSettings):
    """Tokens whose sender is trained by policy search."""

    sender: Literal["factorised", "autoregressive"] = Field(
        "autoregressive",
        description="factorised: every token from the message alone; autoregressive: a GRU reads what it has said",
    )
    samples: int = Field(8, ge=2, le=1000, description="K, how many messages are tried for each vector")
    encoder_loss: Literal["daps", "ppo"] = Field(
        "daps", description="daps: weighted maximum likelihood; ppo: the clipped policy gradient it is compared with"
    )
    beta: float = Field(0.05, gt=0, description="entropy temperature of messages, in nats of reward per nat")
    beta_schedule: Schedule = Field("constant", description="how it falls: constant, linear or exponential")
    beta_end: float = Field(0.01, gt=0, description="where a falling beta ends")
    beta_steps: int = Field(1_000_000, ge=1, description="env steps over which it falls")
    eta: float = Field(1.0, gt=0, description="daps: the trust region's multiplier at the start")
    effective_share: float = Field(
        0.33, gt=0, lt=1, description="daps: rho, the effective share of the K samples that eta is led to"
    )
    clip_param: float = Field(0.2, gt=0, description="ppo: how far the ratio of probabilities may leave 1")
    bit_cost: float = Field(
        0.0, ge=0, description="reward lost per bit of a message, under a table of symbols learned on the way"
    )
    decoder_size: int = Field(64, ge=1, description="width of the receivers' decoder")
    search_weight: float = Field(1.0, ge=0, description="weight of the sender's loss")
    decoder_weight: float = Field(1.0, ge=0, description="weight of the decoder's loss, in nats per element")
    st_bypass: bool = Field(
        False, description="let the receivers' gradient pass the tokens straight to the sender: biased, for comparison"
    )

    @field_validator("beta_end")
    @classmethod
    def _falls(cls, value: float, info: ValidationInfo) -> float:
        return _falling(value, "beta", info)

    @field_validator("effective_share")
    @classmethod
    def _can_be_had(cls, value: float, info: ValidationInfo) -> float:
        """At least one of K samples is always effective."""
        samples = info.data.get("samples")
        if samples is not None and value * samples <= 1 and info.data.get("encoder_loss") == "daps":
            raise ValueError(f"more than 1 / channel.samples, {1 / samples:g} (nearest: {1.1 / samples:.2g})")
        return value


class DDCLSettings(ChannelSettings):
    """Differentiable discrete communication learning: subtractively dithered integers."""

    delta: float = Field(0.25, gt=0, description="step of the quantiser, in units of the message vector")
    rate_weight: float = Field(2e-4, ge=0, description="weight of the rate surrogate, per bit and message")
    rate_warmup: int = Field(0, ge=0, description="env steps over which the rate weight rises linearly from zero")
    limit: int = Field(2**15 - 1, ge=1, le=2**30, description="largest magnitude of a symbol; larger ones are clipped")
