"""What makes numbers evidence: how they were got, how they compare over paired seeds, and when few bits count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

FEWEST_EPISODES = 2000
FEWEST_PAIRS = 5
FEWEST_SEEDS = 3  # that an interval is told of
CLOSE = 0.02  # to `continuous`: 2 points of success, or 2 % of the way from floor to ceiling
_CONFIDENCE = 0.95
_ENDS = ("run.env_steps", "run.minutes")  # of a training


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
    found += [
        f"at round {session['round']} its {key} was cut from {old or 'no limit'} to {new}, when figures could be seen"
        for session in summary.get("resumed", [])
        for key, (old, new) in session["changes"].items()
        if key in _ENDS and new is not None and (old is None or new < old)
    ]
    return found


def way(summary: Mapping[str, Any], name: str, group: str = "evaluation") -> float | None:
    """How far success or return, of sampled actions or of a group's, have come from floor (0) to ceiling (1).

    None where the ceiling is not above the floor by twice the standard error of their difference: where a world asks
    for no talk, its best scripts with and without are as good as each other.
    """
    if not {f"floor/{name}", f"ceiling/{name}"} <= summary.keys():
        return None
    low, high = summary[f"floor/{name}"], summary[f"ceiling/{name}"]
    error = np.hypot(*(summary[f"{group}/{name}_standard_error"] for group in ("floor", "ceiling")))
    return float((summary[f"{group}/{name}"] - low) / (high - low)) if high - low > 2 * error else None


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and the ends of its 95 % interval (Student's t); None of fewer than three seeds."""

    mean: float
    low: float | None = None
    high: float | None = None


def interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval:
    """The mean of seeds' figures, which are known to lie between `least` and `most`.

    Student's t, and not a bootstrap: of five seeds' differences that are nothing but noise, its interval leaves out 0
    once in 20 times, that of a bootstrap (BCa) once in 6.
    """
    mean = float(np.mean(values))
    if len(values) < FEWEST_SEEDS:
        return Interval(mean)
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = error * float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1))
    return Interval(mean, max(least, mean - reach), min(most, mean + reach))


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
    """How far a team stands above the upper hull of others over bits, on common seeds.

    Two of the others may take turns, and need not send all the bits that they may: the hull is the best of all
    mixtures of two with at most the team's bits. Which mixture that is, is asked of all seeds but one, and the team is
    held against what it does with that one, in turns: whoever is best by chance is not taken for better than it is.
    None where the team sends fewer bits than all others, or no two seeds are common to all.
    """
    common = sorted(set(team).intersection(*others))
    if len(common) < 2:
        return None
    own, rest = (np.array([[points[seed] for seed in common] for points in group]) for group in ([team], others))
    gaps = []
    for place in range(len(common)):
        (bits, _), means = np.delete(own[0], place, 0).mean(0), np.delete(rest, place, 1).mean(1)
        shares = best_mixture(means, bits)
        if shares is None:
            return None
        gaps.append(float(own[0, place, 1] - shares @ rest[:, place, 1]))
    return Comparison(interval(gaps), len(common))


def best_mixture(points: np.ndarray, bits: float) -> np.ndarray | None:
    """Shares [P] of at most two of the points [P, 2] (bits, figure): the best figure for at most so many bits.

    None where no point has so few.
    """
    fewer, more = np.flatnonzero(points[:, 0] <= bits), np.flatnonzero(points[:, 0] > bits)
    if not len(fewer):
        return None
    found: list[np.ndarray] = list(np.eye(len(points))[fewer])
    for low, high in itertools.product(fewer, more):
        shares = np.zeros(len(points))
        shares[high] = (bits - points[low, 0]) / (points[high, 0] - points[low, 0])
        shares[low] = 1 - shares[high]
        found.append(shares)
    return found[int(np.argmax([shares @ points[:, 1] for shares in found]))]


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
