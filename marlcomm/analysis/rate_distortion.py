"""Rate and distortion of channels on Gaussian vectors, beside Shannon's bound.

The source replaces the team: each message is a fresh vector, and the receiver is to hear it again. ``bare`` channels
are given the vector itself; ``linear`` ones stand between a learned linear map and one back. Whatever learns does so
from the squared error and the channel's own losses, called as a learner calls them. Then all is frozen, tables are
fitted on more vectors of the training time, and rate and distortion are measured on vectors that nothing was fitted on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from marlcomm import noise
from marlcomm.analysis.rate_distortion_settings import SETTINGS, Part, Setting
from marlcomm.analysis.shannon import SOURCES, Floats, Source, gap, water_level
from marlcomm.channels.base import Channel, Peers, Transmission
from marlcomm.policies.coding import shortest_code, shortest_tables
from marlcomm.policies.team import make_channel
from marlcomm.registry import ConfigError, nearest
from marlcomm.wire.conditional_codes import ConditionalCode
from marlcomm.wire.streams import write_stream

STEPS, SAMPLES = 400, 50_000
_BATCH, _CALIBRATION = 512, 8192
_LEARNING_RATE = 0.01
_STEPS_PRICED, _LEAST_SPREAD = 40, 0.05
_BARGAINING = 0.02  # by how much of the rate's relative miss a price moves
_SMALLEST_DRAW = 2.0**-25


class Link(nn.Module):
    """A sender's linear map, a channel, and a receiver's linear map back; no maps where the channel stands bare."""

    def __init__(self, size: int, channel: Channel, *, bare: bool) -> None:
        super().__init__()
        self.channel = channel
        self.encoder: nn.Module = nn.Identity() if bare else nn.Linear(size, channel.message_size)
        self.decoder: nn.Module = nn.Identity() if bare else nn.Linear(channel.message_size, size)
        if not bare:
            for linear in (self.encoder, self.decoder):
                nn.init.orthogonal_(linear.weight)  # type: ignore[arg-type]

    def forward(self, vectors: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor, Transmission]:
        """Messages [M, K], what the receiver makes of them [M, D], and what passed between."""
        messages = self.encoder(vectors)
        sent = self.channel.transmit(messages, draws)
        return messages, self.decoder(sent.received), sent


@dataclass(frozen=True)
class Point:
    """One channel at one rate, measured on held-out vectors.

    Attributes:
        channel, label, part, source, target_bits, settings, message_size: what was measured.
        seed: of training and samples.
        bits: per message, of an ideal coder under frozen integer tables.
        stream_bits: per message, of the bytes that the range coder wrote; None where tables depend on the dither.
        packet_bits: per message, of the shortest prefix code.
        mse: mean squared error per element.
        least_mse: of any code with as many bits.
        gap_db, gap_error_db: the ratio of both, and its standard error.
        impossible: whether the point lies below Shannon's bound beyond that error.
    """

    channel: str
    label: str
    part: Part
    source: str
    target_bits: float
    settings: dict[str, Any]
    message_size: int
    seed: int
    bits: float
    stream_bits: float | None
    packet_bits: float
    mse: float
    least_mse: float
    gap_db: float
    gap_error_db: float
    impossible: bool


def sweep(
    names: Sequence[str] | None = None,
    seeds: int = 1,
    *,
    steps: int = STEPS,
    samples: int = SAMPLES,
    watch: Callable[[str], None] = lambda what: None,
) -> list[Point]:
    """Train and measure every setting of the named channels (all that have settings if None)."""
    for name in names or ():
        if name not in _known():
            raise ConfigError(f"channels: no rate-distortion settings for {name!r}; {nearest(name, _known())}")
    points = []
    for part, source, setting in _cases(names):
        for seed in range(seeds):
            watch(f"{part} {source.name} {setting.label} {setting.target_bits:g} bits, seed {seed}")
            link = train(setting, part, source, seed, steps)
            points.append(measure(link, setting, part, source, seed, samples))
    return points


def _known() -> list[str]:
    return list(dict.fromkeys(setting.channel for settings in SETTINGS.values() for setting in settings))


def _cases(names: Sequence[str] | None) -> Iterator[tuple[Part, Source, Setting]]:
    for part, settings in SETTINGS.items():
        for source in SOURCES.values():
            for setting in settings:
                if names is None or setting.channel in names:
                    yield part, source, setting


def train(setting: Setting, part: Part, source: Source, seed: int, steps: int = STEPS) -> Link:
    """A link that has learned what it can in so many updates."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = _generator(seed, "train")
        link = _link(setting, part, source)
        if setting.afterwards:  # learn without the channel, then put it in place
            channel, link.channel = link.channel, make_channel("continuous", {}, setting.message_size)
            _fit(link, setting, source, generator, steps)
            link.channel = channel
        link.channel.calibrate(link.encoder(source.sample(_CALIBRATION, generator)).detach())
        if not setting.afterwards:
            _fit(link, setting, source, generator, steps)
    return link.eval()


def _link(setting: Setting, part: Part, source: Source) -> Link:
    settings = dict(setting.settings)
    if setting.priced is not None:
        settings[setting.priced] = setting.haste * source.slope(setting.target_bits)
    link = Link(source.size, make_channel(setting.channel, settings, setting.message_size), bare=part == "bare")
    if part == "linear":
        gain = 1.0
        if setting.step is not None:  # the quantiser's error, step^2 / 12, is to be the water level
            gain = setting.step / math.sqrt(12 * water_level(source.variances, setting.target_bits))
        _start_from_components(link, source, gain, settings.get("segments", 1))
    return link


@torch.no_grad()
def _start_from_components(link: Link, source: Source, gain: float, segments: int) -> None:
    """Start both maps from the principal components, the largest first, or dealt out fairly to segments.

    From random maps, most of the training goes into finding them. Elements beyond the source's size stay random.
    """
    components = np.linalg.eigh(source.covariance)[1][:, ::-1]
    rounds = np.arange(source.size).reshape(-1, segments)
    rounds[1::2] = rounds[1::2, ::-1]  # who chose first in one round is last in the next
    axes = torch.from_numpy(components[:, rounds.T.ravel()].copy()).float()[:, : link.channel.message_size]
    link.encoder.weight[: axes.shape[1]] = gain * axes.T  # type: ignore[operator]
    link.decoder.weight[:, : axes.shape[1]] = axes / gain  # type: ignore[operator]
    for linear in (link.encoder, link.decoder):
        linear.bias.zero_()  # type: ignore[operator]


def _fit(link: Link, setting: Setting, source: Source, generator: torch.Generator, steps: int) -> None:
    parameters = list(link.parameters())
    if not parameters:
        return
    optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    price = source.slope(setting.target_bits)
    for step in range(steps):
        vectors = source.sample(_BATCH, generator)
        messages, heard, sent = link(vectors, _draws(link.channel, _BATCH, generator))
        loss = (heard - vectors).square().mean()
        for name, weight in link.channel.loss_weights().items():
            loss = loss + weight * sent.losses[name].mean()
        if setting.step is not None:
            rate = gaussian_rate(messages, setting.step)
            loss = loss + price * rate
            price *= math.exp(_BARGAINING * (float(rate.detach()) / setting.target_bits - 1))
        if not loss.requires_grad:  # a bare channel's parameters may all be idle
            return
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if link.channel.absorbs:
            link.channel.absorb(messages.detach(), (step + 1) * _BATCH, Peers())
        link.channel.after_update((step + 1) * _BATCH)


def gaussian_rate(messages: Tensor, step: float) -> Tensor:
    """Bits of messages [M, K] in steps of one size, each element coded alone, if all of them are Gaussian.

    The entropy of rounded Gaussians with the elements' variances, and its gradient to them. It only says where training
    is to go; no reported bit comes from it.
    """
    spread = messages.std(0, correction=0).clamp(min=_LEAST_SPREAD * step)
    ends = (torch.arange(_STEPS_PRICED) - 0.5) * step  # of the values 0, 1, 2 ..: the law is symmetric
    above = torch.special.ndtr(-ends / spread.unsqueeze(-1))
    inside = above[:, 1:-1] - above[:, 2:]
    middle = 1 - 2 * above[:, 1]
    bits = [-torch.xlogy(chance, chance.clamp(min=1e-20)) / math.log(2) for chance in (inside, middle)]
    return 2 * bits[0].sum() + bits[1].sum()


def _generator(seed: int, stream: str) -> torch.Generator:
    return torch.Generator().manual_seed(noise.stream_number(f"rate-distortion/{stream}/{seed}"))


def _draws(channel: Channel, messages: int, generator: torch.Generator) -> Tensor | None:
    if not channel.noise_size:
        return None
    return torch.rand(messages, channel.noise_size, generator=generator).clamp_(min=_SMALLEST_DRAW)


@dataclass(frozen=True)
class Heard:
    """Vectors that went through a frozen link.

    Attributes:
        messages: [M, K], what was given to the channel.
        symbols: [M, S], what it sent.
        context: [M, K], what its code may know beforehand; None where that is nothing.
        squared_errors: [M], per element, of what the receiver made of it.
    """

    messages: Tensor
    symbols: Any
    context: Any
    squared_errors: Floats


@torch.no_grad()
def hear(link: Link, source: Source, seed: int, stream: str, samples: int) -> Heard:
    """Fresh vectors through a link, as in an evaluation."""
    generator = _generator(seed, stream)
    vectors = source.sample(samples, generator)
    draws = _draws(link.channel, samples, generator)
    with link.channel.evaluation():
        messages, heard, sent = link(vectors, draws)
    context = link.channel.context(draws)
    errors = (heard - vectors).square().mean(-1).double().numpy()
    return Heard(messages, sent.symbols.numpy(), None if context is None else context.numpy(), errors)


def measure(link: Link, setting: Setting, part: Part, source: Source, seed: int, samples: int = SAMPLES) -> Point:
    """Rate and distortion of a trained link on held-out vectors, under tables fitted on others."""
    fitted_on = hear(link, source, seed, "fit", samples)
    held_out = hear(link, source, seed, "held out", samples)
    bits, stream_bits, packet_bits = coded(link.channel, fitted_on, held_out)
    found = gap(source, bits, held_out.squared_errors)
    return Point(
        setting.channel,
        setting.label,
        part,
        source.name,
        setting.target_bits,
        link.channel.settings.model_dump(mode="json"),
        setting.message_size,
        seed,
        bits=float(bits.mean()),
        stream_bits=stream_bits,
        packet_bits=packet_bits,
        mse=float(held_out.squared_errors.mean()),
        least_mse=source.least_mse(float(bits.mean())),
        gap_db=found.decibels,
        gap_error_db=found.error,
        impossible=found.impossible,
    )


def coded(channel: Channel, fitted_on: Heard, held_out: Heard) -> tuple[Floats, float | None, float]:
    """Ideal bits [M], and stream and packet bits per message, of held-out messages under tables fitted on others."""
    conditional = channel.conditional_tables(fitted_on.messages)
    if conditional is not None:
        packets = ConditionalCode(conditional).lengths(held_out.symbols, held_out.context)
        return conditional.ideal_bits(held_out.symbols, held_out.context), None, float(packets.mean())
    half = len(fitted_on.symbols) // 2
    first, second = fitted_on.symbols[:half], fitted_on.symbols[half:]
    code = shortest_code(channel.alphabet(), first, second)
    tables = shortest_tables(channel.alphabet(), first, second)
    stream = 8 * len(write_stream(tables, held_out.symbols)) / len(held_out.symbols)
    return tables.ideal_bits(held_out.symbols), stream, float(code.lengths(held_out.symbols).mean())


def write(points: Sequence[Point], file: Path, **about: Any) -> None:
    """Write points to a JSON file, with whatever else is to be known about them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {**about, "points": [asdict(point) for point in points]}
    file.write_text(json.dumps(_rounded(record), indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Floats by six digits, which is more than Monte Carlo knows."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
