"""Which settings of each channel are tried at about 4, 8, 16 and 32 bits a message (no torch here)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Part = Literal["bare", "linear"]
TARGETS = (4, 8, 16, 32)
_SIZE = 16
# A layer norm would lose length and mean; running statistics of each element, how much more one counts than another.
_AS_IT_IS = {"normalization": "none"}
# Found by trial: the surrogate of ddcl prices bits that are no bits of its code.
_DDCL_HASTE = {4: 1.2, 8: 1.85, 16: 2.2, 32: 2.2}


@dataclass(frozen=True)
class Setting:
    """One channel on its way to one rate.

    Attributes:
        channel: its name.
        target_bits: the wanted rate, per message.
        settings: of the channel.
        message_size: K, the width of its messages.
        label: how the picture calls it.
        priced: the channel's own weight of bits, which is set to the slope of Shannon's bound at the wanted rate: there
            a further bit is worth what it costs.
        haste: factor of that weight.
        step: of a channel without such a weight, the step of its quantiser; the trainer then prices messages by it, and
            moves the price until the wanted rate is met.
        afterwards: whether all is learned without the channel, which is put in place at the end.
    """

    channel: str
    target_bits: float
    settings: dict[str, Any] = field(default_factory=dict)
    message_size: int = _SIZE
    label: str = ""
    priced: str | None = None
    haste: float = 1.0
    step: float | None = None
    afterwards: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.channel)


def _vq(target: int) -> dict[str, int]:
    """Codebooks of at most 256 words: fewer segments are better, and more cost more time."""
    segments = max(target // 8, 1)
    return {"segments": segments, "codebook_size": 2 ** (target // segments)}


def _pool(target: int) -> list[list[int]]:
    """Members with half of the bits, all, and one and a half times as many."""
    return [[segments, 2 ** (bits // segments)] for segments, bits in _pool_sizes(target)]


def _pool_sizes(target: int) -> list[tuple[int, int]]:
    return [(max(bits // 8, 1), bits) for bits in (target // 2, target, 2 * target) if bits <= 64]


def _ddcl(dither: str, target: int) -> Setting:
    """Conditional tables where the dither is shared; plain rounding in the evaluation where it is not used there."""
    shared = {"dither_levels": 64, "code": "dither_conditional"}
    return Setting(
        "ddcl",
        target,
        {"delta": 1.0, "learn_step": True, **(shared if dither == "shared" else {"eval_dither": "none"})},
        label="ddcl" if dither == "shared" else "ddcl, rounded",
        priced="rate_weight",
        haste=_DDCL_HASTE[target],
    )


def _tokens(name: str, target: int) -> dict[str, Any]:
    # All three draw their tokens, as in training.
    drawn = {"temperature_schedule": "exponential", "temperature_end": 0.1, "eval_tokens": "sampled"}
    extra = {"gumbel": drawn, "gr_mck": {**drawn, "samples": 4}, "daps": {"sender": "factorised", "beta": 0.02}}
    return {"vocabulary": 16, "tokens": target // 4, **extra[name]}


def _codebooks(part: Part) -> Iterator[Setting]:
    for target in TARGETS:
        yield Setting("vq", target, {**_vq(target), **_AS_IT_IS})
    for target in TARGETS:  # a wider message leaves the layer norm a place for the length
        yield Setting(
            "rvq", target, {"codebook_size": 16, "stages": target // 4}, message_size=24 if part == "linear" else _SIZE
        )
    for target in TARGETS:
        yield Setting("dvq", target, {"pool": _pool(target), **_AS_IT_IS}, priced="capacity_weight", haste=0.6)


def _scalars(part: Part) -> Iterator[Setting]:
    if part == "linear":
        for target in TARGETS:
            half = 8 if target < 32 else 16  # maps to finer levels have smaller weights, which Adam's steps upset
            yield Setting("fsq", target, {"levels": [2 * half + 1] * _SIZE}, step=1 / half)
        for target in TARGETS:
            yield Setting("uniform", target, {"bits": 6, "step": "fixed", "low": -16.0, "high": 15.5}, step=0.5)
    for target in TARGETS:
        size = target // 2
        label = "uniform, learned step" if part == "linear" else "uniform"
        if part == "linear" or size == _SIZE:
            yield Setting("uniform", target, {"bits": 2}, message_size=size, label=label)
    for target in TARGETS:  # three levels are 1.54 bits a number at the least error
        levels = [3] * min(round(target / 1.54), _SIZE) if target < 32 else [5] * _SIZE
        label = "fsq, least error" if part == "linear" else "fsq"
        yield Setting("fsq", target, {"levels": levels}, label=label)
    for target in TARGETS:
        yield _ddcl("shared", target)
        yield _ddcl("none", target)


def _signs() -> Iterator[Setting]:
    for name in ("lfq", "bsq"):
        for target in TARGETS[:3]:  # the library lists all codes, so 16 bits are the most
            yield Setting(name, target, {"bits": target})


def _tokens_of(name: str) -> Iterator[Setting]:
    for target in TARGETS[:3] if name == "daps" else TARGETS:  # daps decodes every sample: 32 bits take minutes
        yield Setting(name, target, _tokens(name, target))


def _cheap(part: Part) -> Iterator[Setting]:
    for bits, size in ((2, 2), (2, 4), (2, 8), (2, 16), (4, 16), (8, 16)):
        if part == "linear" or size == _SIZE:
            yield Setting("post_training", bits * size, {"bits": bits}, message_size=size, afterwards=True)
    for name, bits in (("int8", 8), ("float16", 16), ("bfloat16", 16)):
        yield Setting(name, bits * _SIZE)


def _settings(part: Part) -> list[Setting]:
    return [
        *_codebooks(part),
        *_scalars(part),
        *_signs(),
        *_tokens_of("gumbel"),
        *_tokens_of("gr_mck"),
        *_tokens_of("daps"),
        *_cheap(part),
    ]


SETTINGS: dict[Part, list[Setting]] = {"bare": _settings("bare"), "linear": _settings("linear")}
