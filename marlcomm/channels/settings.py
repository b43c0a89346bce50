"""Settings of the built-in channels (no torch here: a bad setting is refused before torch is imported)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from marlcomm.registry import ConfigError, Settings

Schedule = Literal["constant", "linear", "exponential"]


def _falling(end: float, name: str, info: ValidationInfo) -> float:
    """Where the setting `name` ends, which a falling schedule must not raise."""
    first = info.data.get(name)
    if info.data.get(f"{name}_schedule") != "constant" and first is not None and end > first:
        raise ValueError(f"at most channel.{name}, {first:g}, where it falls (nearest: {first:g})")
    return end


class ChannelSettings(Settings):
    """What every channel's settings offer.

    Attributes:
        why_sent: why a channel of this kind can be at the sender only; None where it can also be at the read-out.
        carries: whether anything is transmitted at all, as the channel itself says (`Channel.carries`).
        remark: what who trains with it should know, a sentence.
    """

    why_sent: ClassVar[str | None] = None
    carries: ClassVar[bool] = True
    remark: ClassVar[str | None] = None

    placement: Literal["sender", "readout"] = Field(
        "sender",
        description="where it is. sender: its symbols are what is sent; readout: a bottleneck in each receiver, behind "
        "links of float32 numbers",
    )

    @field_validator("placement")
    @classmethod
    def _makes_sense_there(cls, value: str) -> str:
        if value == "readout" and cls.why_sent is not None:
            raise ValueError(f"'sender': {cls.why_sent}")
        return value

    @property
    def size_name(self) -> str:
        """What a message's size is called where one does not fit."""
        return "policy.message_size" if self.placement == "sender" else "the read-out's width"

    @property
    def wants_credit(self) -> bool:
        """Whether the channel is told what other messages would have been worth (see `Channel.wants_credit`)."""
        return False

    def fit(self, message_size: int) -> None:
        """Raise `ConfigError` where messages of this size cannot pass."""


class ContinuousSettings(ChannelSettings):
    """float32 numbers as they are."""

    why_sent = "what is read as it was heard passes no bottleneck"


class SilentSettings(ChannelSettings):
    """Nothing is sent."""

    why_sent = "where nothing is heard there is nothing to read"
    carries = False


class PostTrainingSettings(ChannelSettings):
    """A trained continuous team, quantised afterwards."""

    why_sent = "it stands for a link that was cut down after training (nearest: channel.name=uniform)"
    remark = (
        "post_training takes its range from what a trained team says, in marlcomm evaluate RUN "
        "channel.name=post_training; while it trains, its range stays -1 to 1 (uniform is meant to be trained with)"
    )

    bits: int = Field(4, ge=1, le=16, description="bits of each element")
    clipped_share: float = Field(
        0.002, ge=0, lt=1, description="share of what the team says that may lie outside the range, half on each side"
    )


def nearest_divisor(size: int, wanted: int) -> int:
    """The divisor of a message size that is nearest to a wanted number of segments."""
    divisors = [count for count in range(1, size + 1) if size % count == 0]
    return min(divisors, key=lambda count: abs(count - wanted))


Normalization = Literal["layer", "running", "none"]


class CodebookSettings(ChannelSettings):
    """What quantisers with codebooks share."""

    normalization: Normalization = Field(
        "layer",
        description="of messages before they are quantised. layer: over the elements of each message (tanh where there "
        "are fewer than three); running: each element by its running mean and variance; none: as they are",
    )
    decay: float = Field(
        0.8, ge=0, lt=1, description="of running statistics, per update: `normalization: running`, `update: ema`"
    )
    update: Literal["loss", "ema"] = Field(
        "loss",
        description="how codewords learn. loss: by the optimiser; ema: without a loss, as the running mean of the "
        "messages that chose them, moved once an update",
    )
    smoothing: float = Field(1e-5, gt=0, description="Laplace smoothing of `ema`'s counts")
    replace_after: int | None = Field(
        None, ge=1, description="updates without use after which a message replaces a codeword; null: never"
    )
    codebook_weight: float = Field(1.0, ge=0, description="weight of the loss that pulls codewords to messages")
    commitment_weight: float = Field(0.25, ge=0, description="weight of the loss that pulls messages to codewords")


class VQSettings(CodebookSettings):
    """Vector quantisation: the index of the nearest codeword of each segment."""

    codebook_size: int = Field(16, ge=2, le=2**16, description="L, the codewords of a segment")
    segments: int = Field(1, ge=1, description="G, into how many equal segments a message is cut")
    shared_codebook: bool = Field(False, description="one codebook for all segments instead of one for each")
    init: Literal["calibrate", "kmeans"] = Field(
        "calibrate",
        description="what codewords start from. calibrate: messages of the untrained team; kmeans: the same, and after "
        "`init_after` env steps the centres of ten rounds of k-means over the messages of an update",
    )
    init_after: int = Field(0, ge=0, description="env steps before k-means; the calibrated codewords serve until then")

    @model_validator(mode="after")
    def _only_kmeans_waits(self) -> VQSettings:
        if self.init_after and self.init != "kmeans":
            raise ValueError(f"init_after {self.init_after} is for init: kmeans; with init: {self.init} leave it at 0")
        return self

    def fit(self, message_size: int) -> None:
        if message_size % self.segments:
            raise ConfigError(
                f"channel.segments: got {self.segments}, wanted a divisor of {self.size_name} "
                f"{message_size} (nearest: {nearest_divisor(message_size, self.segments)})"
            )


Member = tuple[Annotated[int, Field(strict=True, ge=1)], Annotated[int, Field(strict=True, ge=2, le=2**16)]]


class DVQSettings(CodebookSettings):
    """Dynamic vector quantisation: each message chooses its quantiser from a pool."""

    pool: list[Member] = Field(
        [(1, 16), (1, 64), (2, 16), (2, 64), (4, 16), (4, 64)],
        min_length=1,
        description="the quantisers as pairs (G, L): G segments, L codewords for each",
    )
    continuous: bool = Field(False, description="a last member of the pool: the normalised message as float32 numbers")
    structure: Literal["flat", "hierarchical"] = Field(
        "flat",
        description="flat: every member quantises the message; hierarchical: by falling G (at equal G by falling L), "
        "each member quantises what the one before it made of the message",
    )
    selector: Literal["learned", "random", "constant"] = Field(
        "learned", description="who chooses the member: keys and a query of the message, chance, or `constant_member`"
    )
    constant_member: int = Field(0, ge=0, description="the place in the pool that `selector: constant` always chooses")
    key_size: int = Field(16, ge=1, description="l, the width of keys and query")
    evaluate: Literal["argmax", "sampled"] = Field(
        "argmax", description="the learned selector in evaluations: the likeliest member, or sampled as in training"
    )
    temperature: float = Field(1.0, gt=0, description="temperature of the relaxed choice that the gradient sees")
    final_temperature: float = Field(0.5, gt=0, description="the temperature after `temperature_steps`")
    temperature_steps: int = Field(
        0, ge=0, description="env steps over which the temperature falls linearly; 0: it stays"
    )
    penalty: Literal["bits", "legacy_paper", "legacy_code"] = Field(
        "bits",
        description="what a choice costs. bits: G log2 L (32 D for the continuous member) + log2 of the pool's size; "
        "legacy_paper: G ln L, with G = D and L = 1e9 for the continuous member; legacy_code: the published code's "
        "G + ln L, with G = D and L = 9999, where probabilities serve as logits and a hierarchy goes by rising G",
    )
    capacity_weight: float = Field(2e-4, ge=0, description="weight of the penalty, per bit (or legacy unit)")
    capacity_choice: Literal["soft", "one_hot"] = Field(
        "soft",
        description="what the penalty weighs: the probabilities (low variance), or the choice, straight through",
    )
    balance_weight: float = Field(
        0.01, ge=0, description="weight of the loss that draws choices to members chosen rarely in the last update"
    )
    balance_steps: int = Field(200_000, ge=0, description="env steps after which the choice is balanced no longer")
    train_unselected: float = Field(
        1.0, ge=0, le=1, description="weight of the codebook loss of members that a message did not choose"
    )

    @property
    def options(self) -> int:
        """N, how many members can be chosen."""
        return len(self.pool) + self.continuous

    @model_validator(mode="after")
    def _running_means_are_of_all(self) -> DVQSettings:
        if self.update == "ema" and self.train_unselected < 1:
            raise ValueError(
                f"train_unselected: got {self.train_unselected}, wanted 1 with update: ema, where codewords of every "
                "member follow all messages"
            )
        return self

    @model_validator(mode="after")
    def _the_constant_is_a_member(self) -> DVQSettings:
        if self.constant_member >= self.options:
            raise ValueError(
                f"constant_member {self.constant_member} is not in the pool: wanted 0 to {self.options - 1}"
            )
        return self

    def fit(self, message_size: int) -> None:
        for place, (segments, _) in enumerate(self.pool):
            if message_size % segments:
                raise ConfigError(
                    f"channel.pool.{place}: got G = {segments}, wanted a divisor of {self.size_name} "
                    f"{message_size} (nearest: {nearest_divisor(message_size, segments)})"
                )


EvalTokens = Literal["argmax", "sampled"]


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
    eval_tokens: EvalTokens = Field(
        "argmax",
        description="tokens in evaluations: each the likeliest after those before it, or sampled as in training",
    )

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
    mode: Literal["grounding", "task"] = Field(
        "grounding",
        description="what messages are rewarded for. grounding: that the vector can be reconstructed from them; "
        "task: also what they are worth to those who hear them",
    )
    fit_weight: float = Field(1.0, ge=0, description="weight of the reconstruction's fit in the reward")
    task_weight: float = Field(3.0, ge=0, description="task: weight of the receivers' objective in the reward")
    eval_tokens: EvalTokens = Field(
        "sampled",
        description="tokens in evaluations: each the likeliest after those before it, or sampled as in training",
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

    @property
    def wants_credit(self) -> bool:
        return self.mode == "task"

    @model_validator(mode="after")
    def _rewards_something(self) -> Self:
        if self.mode == "task" and self.placement == "readout":
            raise ValueError(
                "mode: got 'task', wanted 'grounding' with placement 'readout' "
                "(what is read there is no message of one sender)"
            )
        if not self.fit_weight and not (self.mode == "task" and self.task_weight):
            nearest = "task_weight 3" if self.mode == "task" else "fit_weight 1"
            raise ValueError(
                "fit_weight: got 0, wanted more than 0 unless mode 'task' with a positive task_weight rewards messages "
                f"for something else (nearest: {nearest})"
            )
        return self


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
        if self.code == "dither_conditional" and self.placement == "readout":
            raise ValueError(
                "code: got 'dither_conditional', wanted 'marginal' with placement 'readout' "
                "(no code is fitted to what no link carries)"
            )
        if self.code == "dither_conditional" and self.eval_dither == "none":
            raise ValueError(
                "eval_dither: got 'none', wanted 'shared' with code 'dither_conditional' "
                "(without dither there is nothing to condition on: take code 'marginal')"
            )
        return self


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

    bits: int = Field(
        8,
        ge=2,
        le=16,
        description="K, bits of a message; a learned linear map fits K to the message's size (lfq takes 1)",
    )


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
