"""Settings of the built-in channels (no torch here: a bad setting is refused before torch is imported)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

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
    """Differentiable discrete communication learning: integers from a dithered quantiser."""

    delta: float = Field(0.25, gt=0, description="step of the quantiser, in units of the message vector")
    learn_step: bool = Field(False, description="learn a step for each element, from `delta` on")
    dither: Literal["shared", "triangular"] = Field(
        "shared",
        description="`shared`: both ends know the dither, the receiver subtracts it; "
        "`triangular`: the sender's own noise, which nobody subtracts",
    )
    dither_levels: int | None = Field(
        None, ge=2, le=1024, description="draw the shared dither from so many levels; null for any real number"
    )
    eval_dither: Literal["shared", "none"] = Field(
        "shared", description="evaluate with the dither of training (`shared`), or with plain rounding (`none`)"
    )
    code: Literal["marginal", "dither_conditional"] = Field(
        "marginal", description="what a fitted code knows of a symbol: its place, or also the dither level there"
    )
    rate_weight: float = Field(2e-4, ge=0, description="weight of the rate surrogate, per bit and message")
    rate_warmup: int = Field(0, ge=0, description="env steps over which the rate weight rises linearly from zero")
    limit: int = Field(2**15 - 1, ge=1, le=2**30, description="largest magnitude of a symbol; larger ones are clipped")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dither_levels is not None and self.dither != "shared":
            raise ValueError(
                f"dither_levels: got {self.dither_levels}, wanted null with dither {self.dither!r} "
                "(levels are for both ends to agree on: take dither 'shared')"
            )
        if self.code == "dither_conditional" and self.dither_levels is None:
            nearest = "dither_levels 64" if self.dither == "shared" else "code 'marginal'"
            raise ValueError(
                "code: got 'dither_conditional', wanted 'marginal' unless a shared dither has levels "
                f"(nearest: {nearest})"
            )
        if self.code == "dither_conditional" and self.eval_dither == "none":
            raise ValueError(
                "eval_dither: got 'none', wanted 'shared' with code 'dither_conditional' "
                "(without dither there is nothing to condition on: take code 'marginal')"
            )
        return self
