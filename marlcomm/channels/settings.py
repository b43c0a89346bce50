"""Settings of the built-in channels (no torch here: a bad setting is refused before torch is imported)."""

from __future__ import annotations

from pydantic import Field

from marlcomm.registry import ConfigError, Settings


class ChannelSettings(Settings):
    """What every channel's settings offer."""

    def fit(self, message_size: int) -> None:
        """Raise `ConfigError` where messages of this size cannot pass."""


class ContinuousSettings(ChannelSettings):
    """float32 numbers as they are."""


class SilentSettings(ChannelSettings):
    """Nothing is sent."""


class PostTrainingSettings(ChannelSettings):
    """A trained continuous team, quantised afterwards."""

    bits: int = Field(4, ge=1, le=16, description="bits of each element")
    clipped_share: float = Field(
        0.002, ge=0, lt=1, description="share of what the team says that may lie outside the range, half on each side"
    )


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


class GumbelSettings(ChannelSettings):
    """Straight-through Gumbel-softmax tokens."""

    vocabulary: int = Field(16, ge=2, le=2**16, description="V, how many values a token has")
    tokens: int = Field(1, ge=1, description="how many tokens a message has")
    temperature: float = Field(1.0, gt=0, description="temperature of the relaxed sample the gradient sees")


class DDCLSettings(ChannelSettings):
    """Differentiable discrete communication learning: subtractively dithered integers."""

    delta: float = Field(0.25, gt=0, description="step of the quantiser, in units of the message vector")
    rate_weight: float = Field(2e-4, ge=0, description="weight of the rate surrogate, per bit and message")
    rate_warmup: int = Field(0, ge=0, description="env steps over which the rate weight rises linearly from zero")
    limit: int = Field(2**15 - 1, ge=1, le=2**30, description="largest magnitude of a symbol; larger ones are clipped")
