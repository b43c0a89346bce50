"""What makes numbers evidence: how they were got, how they compare over paired seeds, and when few bits count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

FEWEST_EPISODES = 2000
FEWEST_PAIRS = 5
FEWEST_SEEDS = 3  # that an interval is told of
CLOSE = 0.02  # to `continuous`: 2 points of success, or 2 % of the way from floor to ceiling
_CONFIDENCE = 0.95


def shortcomings(summary: Mapping[str, Any]) -> list[str]:
    """Why an evaluation is no evidence, in sentences; none where it is. See `evaluate_run` for the keys."""
    found = []
    if summary["episodes"] < FEWEST_EPISODES:
        found.append(f"{summary['episodes']:,} episodes, and evidence takes {FEWEST_EPISODES:,}")
    if summary["stream"] != "evaluation":
        found.append(f"played on the stream {summary['stream']!r}, on which settings are chosen")
    if summary["trained"] < 1:
        found.append(f"only {summary['trained']:.0%} of its training is over")
    found += [
        f"from round {session['round']} on it was trained with another {', '.join(session['forced'])}"
        for session in summary.get("resumed", [])
        if session["forced"]
    ]
    return found


def way(summary: Mapping[str, Any], name: str) -> float | None:
    """How far success or return have come from floor (0) to ceiling (1).

    None where the ceiling is not above the floor by twice the standard error of their difference: where a world asks
    for no talk, its best scripts with and without are as good as each other.
    """
    if not {f"floor/{name}", f"ceiling/{name}"} <= summary.keys():
        return None
    low, high = summary[f"floor/{name}"], summary[f"ceiling/{name}"]
    error = np.hypot(*(summary[f"{group}/{name}_standard_error"] for group in ("floor", "ceiling")))
    return float((summary[f"evaluation/{name}"] - low) / (high - low)) if high - low > 2 * error else None


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and the ends of its 95 % interval (by bootstrap; None of fewer than three seeds)."""

    mean: float
    low: float | None = None
    high: float | None = None


def interval(values: Sequence[float]) -> Interval:
    """The mean of seeds' figures."""
    return _bootstrapped(np.mean, np.asarray(values))


def _bootstrapped(statistic: Callable[[np.ndarray], Any], seeds: np.ndarray) -> Interval:
    """A statistic of what seeds gave [R], and its interval, which has no width where every seed says the same."""
    found = float(statistic(seeds))
    if len(seeds) < FEWEST_SEEDS:
        return Interval(found)
    without_one = [float(statistic(np.delete(seeds, place))) for place in range(len(seeds))]
    if np.allclose(without_one, found, rtol=1e-12, atol=0):
        return Interval(found, found, found)
    with np.errstate(invalid="ignore"):  # of resamples for which there is no statistic
        ends = stats.bootstrap(
            (seeds,), statistic, confidence_level=_CONFIDENCE, method="BCa", rng=np.random.default_rng(0)
        ).confidence_interval
    if not np.isfinite([ends.low, ends.high]).all():
        return Interval(found)
    return Interval(found, float(ends.low), float(ends.high))


@dataclass(frozen=True)
class Comparison:
    """The difference of two teams' figures, seed by seed.

    Attributes:
        difference: first minus second.
        pairs: seeds that both were trained with.
        withheld: why nothing may be claimed, whatever the numbers say; empty where it may.
    """

    difference: Interval
    pairs: int
    withheld: str = ""

    @property
    def claim(self) -> str | None:
        """``higher`` or ``lower``, where that may be said of the first one: enough pairs, and an interval without 0."""
        low, high = self.difference.low, self.difference.high
        if self.withheld or self.pairs < FEWEST_PAIRS or low is None or high is None:
            return None
        return "higher" if low > 0 else "lower" if high < 0 else None


def compare(first: Mapping[int, float], second: Mapping[int, float]) -> Comparison | None:
    """Two teams' figures by seed; None where no seed is common to them."""
    common = sorted(first.keys() & second.keys())
    if not common:
        return None
    return Comparison(interval([first[seed] - second[seed] for seed in common]), len(common))


Points = Mapping[int, tuple[float, float]]  # seed -> bits and figure


def above_hull(team: Points, others: Sequence[Points]) -> Comparison | None:
    """How far a team stands above the upper hull of others over bits, all of them means over common seeds.

    Two of the others may take turns, and need not send all the bits that they may: so the hull is the best of all
    mixtures of two with at most the team's bits. None where the team sends fewer bits than all others, or no seed is
    common to all.
    """
    common = sorted(set(team).intersection(*others))
    if not common:
        return None
    own, rest = (np.array([[points[seed] for seed in common] for points in group]) for group in ([team], others))

    def gap(places: np.ndarray) -> float:
        (bits, figure), means = own[0, places].mean(0), rest[:, places].mean(1)
        return float(figure - upper_hull(means, bits))

    if not np.isfinite(gap(np.arange(len(common)))):
        return None
    return Comparison(_bootstrapped(gap, np.arange(len(common))), len(common))


def upper_hull(points: np.ndarray, bits: float) -> float:
    """The best figure that mixtures of two of the points [P, 2] (bits, figure) have for at most so many bits."""
    fewer, more = points[points[:, 0] <= bits], points[points[:, 0] > bits]
    mixtures = [low[1] + (high[1] - low[1]) * (bits - low[0]) / (high[0] - low[0]) for low in fewer for high in more]
    return float(max([*fewer[:, 1], *mixtures], default=np.inf))


@dataclass(frozen=True)
class Scale:
    """What a figure is judged by.

    Attributes:
        metric: ``success``, ``return`` or ``length``, of which less is better.
        floor, ceiling: the references' figures.
    """

    metric: str
    floor: float | None
    ceiling: float | None

    @property
    def margin(self) -> float:
        """How much worse than `continuous` a team may be whose few bits count; without a way, 2 points of success."""
        way = 0.0 if self.floor is None or self.ceiling is None else CLOSE * abs(self.ceiling - self.floor)
        return max(CLOSE, way) if self.metric == "success" else way

    def worse(self, value: float, than: float) -> float:
        """How much worse a value is than another."""
        return value - than if self.metric == "length" else than - value


def few_bits_count(value: float, continuous: float | None, bits: float, most_bits: float, scale: Scale) -> list[str]:
    """Why a team with a bounded channel does not count, in sentences; none where it does.

    It must be as good as `continuous` is under the same recipe, and its coded bits per living agent's step few.
    """
    found = []
    if scale.floor is None or scale.ceiling is None:
        found.append(f"no {'floor' if scale.floor is None else 'ceiling'} to judge it by")
    elif continuous is None:
        found.append("there is no continuous team to compare with")
    elif scale.worse(scale.floor, continuous) <= scale.margin:
        found.append("continuous is no better than the floor")
    elif scale.worse(value, continuous) > scale.margin:
        found.append(f"{scale.worse(value, continuous):.3g} worse than continuous, {scale.margin:.3g} is allowed")
    if bits > most_bits:
        found.append(f"{bits:.1f} bits, {most_bits:g} are allowed")
    return found
