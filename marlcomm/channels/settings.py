"""Settings of the built-in channels (no torch here: a bad setting is refused before torch is imported)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from marlcomm.registry import ConfigError, Settings


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


class FSQSettings(ChannelSettings):
    """Finite scalar quantisation: a digit for each number, no codebook."""

    levels: list[Annotated[int, Field(ge=2, le=256)]] = Field(
        [8, 5, 5, 5],
        min_length=1,
        description="levels of each number sent; a learned linear map fits their count to the message's size",
    )


class UniformSettings(ChannelSettings):
    """Uniform quantisation: b bits an element, in equal steps."""

    bits: int = Field(4, ge=2, le=16, description="b, bits of an element (one bit is too few for 0 and both signs)")
    step: Literal["learned", "fixed"] = Field("learned", description="learned from the loss (LSQ), or fixed")
    shared_step: bool = Field(False, description="one learned step for all elements instead of one for each")
    low: float = Field(
        -1.0, le=0, description="lower end of the range; both ends move by up to half a step so that 0 is a value"
    )
    high: float = Field(1.0, ge=0, description="upper end of the range; a learned step only takes its ratio to `low`")

    @field_validator("high")
    @classmethod
    def _above_low(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("low", -1.0):
            raise ValueError("a number above low (nearest: 1.0)")
        return value


class CastSettings(ChannelSettings):
    """A 16-bit number format."""

    number: ClassVar[str]


class Float16Settings(CastSettings):
    """float16: 11 bits of precision, up to 65504."""

    number = "float16"


class BFloat16Settings(CastSettings):
    """bfloat16: 8 bits of precision, the range of float32."""

    number = "bfloat16"


class Int8Settings(ChannelSettings):
    """int8: integers -127 .. 127 times a scale."""

    scale: Literal["message", "fixed"] = Field(
        "message", description="of each message, sent with it in 15 bits; or fixed, known to both ends"
    )
    limit: float = Field(
        1.0, gt=0, description="largest magnitude that a fixed scale can send; larger ones are clipped"
    )


class LFQSettings(ChannelSettings):
    """Lookup-free quantisation: the signs of a few numbers."""

    spherical: ClassVar[bool] = False

    # The library lists all 2^K codes when it is built.
    bits: int = Field(
        8, ge=1, le=16, description="K, bits of a message; a learned linear map fits K to the message's size"
    )
    commitment_weight: float = Field(0.25, ge=0, description="weight of the loss that pulls points to their codes")
    entropy_weight: float = Field(
        0.0, ge=0, description="weight of the entropy loss (published: 0.1): sure of every bit, and both signs alike"
    )
    diversity: float = Field(
        1.0, ge=0, description="gamma, weight of the bits' own entropy in it; it works against a low rate"
    )
    inverse_temperature: float = Field(100.0, gt=0, description="T of the entropy loss: how far from 0 a sign is sure")


class BSQSettings(LFQSettings):
    """Binary spherical quantisation: lookup-free, on the unit sphere."""

    spherical = True


class RVQSettings(ChannelSettings):
    """Residual vector quantisation: a few indices, each refining the ones before it."""

    codebook_size: int = Field(16, ge=2, le=2**16, description="L, the codewords of a stage")
    stages: int = Field(4, ge=1, le=16, description="Q, the stages that are trained")
    prefix: Literal["all", "random"] = Field(
        "all", description="send all stages, or in each message a random number of them, which is then on the wire"
    )
    stages_sent: int | None = Field(
        None, ge=1, description="send exactly this many stages, known to both ends; null leaves it to `prefix`"
    )
    codebook_weight: float = Field(1.0, ge=0, description="weight of the loss that pulls codewords to residuals")
    commitment_weight: float = Field(0.25, ge=0, description="weight of the loss that pulls residuals to codewords")

    @field_validator("stages_sent")
    @classmethod
    def _not_more_than_there_are(cls, value: int | None, info: ValidationInfo) -> int | None:
        stages = info.data.get("stages")
        if value is not None and stages is not None and value > stages:
            raise ValueError(f"at most channel.stages (nearest: {stages})")
        return value
