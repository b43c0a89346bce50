"""What studies found: a row for each team, by the rules of evidence."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from marlcomm.analysis.evidence import (
    Comparison,
    Interval,
    Points,
    Scale,
    above_hull,
    compare,
    few_bits_count,
    interval,
    way,
)
from marlcomm.analysis.study import CONTINUOUS, SILENT, Study, StudySettings

_BITS = "evaluation/coded_bits_per_agent_step"


@dataclass(frozen=True)
class Row:
    """What teams of one label did.

    Attributes:
        by_seed: the headline figure, seed -> value.
        figure, bits: over seeds; bits are coded ones per living agent's step.
        summaries: of the seeds.
        against: comparisons with the continuous and the silent teams, by their labels, and with a hull of others.
        reasons: why its few bits do not count (none where they do, and for teams that others stand beside).
        reached: whether the seeds that are there reach what was to be reached; None where nothing was asked.
    """

    label: str
    by_seed: dict[int, float]
    figure: Interval
    bits: Interval
    summaries: list[dict[str, Any]]
    against: dict[str, Comparison]
    reasons: list[str]
    reached: bool | None

    def mean(self, key: str) -> float | None:
        """The mean of a figure over seeds; None where one lacks it."""
        values = [summary.get(key) for summary in self.summaries]
        return None if None in values else float(np.mean(cast(list[float], values)))

    @property
    def counts(self) -> str:
        """Whether its few bits count, or why not; nothing of the teams that others stand beside."""
        if self.label in (CONTINUOUS, SILENT):
            return ""
        return "; ".join(self.reasons) or "yes"

    @property
    def way(self) -> float | None:
        """How far from floor to ceiling returns have come, mean over seeds; None where there is no way."""
        ways = [come for summary in self.summaries if (come := way(summary, "return")) is not None]
        return float(np.mean(ways)) if ways else None

    @property
    def cost(self) -> tuple[float, float]:
        """Env steps and minutes of a core that training took, means over seeds."""
        costs = [(summary["env_steps"], summary["core_seconds"] / 60) for summary in self.summaries]
        steps, minutes = np.mean(costs, axis=0)
        return float(steps), float(minutes)


def rows(study: Study) -> list[Row]:
    """All that was found, in the order of the study."""
    evaluations = study.evaluations()
    values = {label: _by_seed(study, summaries, study.settings.group) for label, summaries in evaluations.items()}
    found = [_row(study, label, summaries, values) for label, summaries in evaluations.items()]
    _beside_the_hull(study.settings, {row.label: row for row in found})
    return found


def _beside_the_hull(settings: StudySettings, found: Mapping[str, Row]) -> None:
    """Add to rows how far they stand above the upper hull of others."""
    if settings.hull is None or not found.keys() >= set(settings.hull.of):
        return
    others = [_points(found[label]) for label in settings.hull.of]
    for label in settings.hull.above:
        comparison = above_hull(_points(found[label]), others) if label in found else None
        if comparison is not None:
            found[label].against[f"upper hull of {len(others)}"] = comparison


def _points(row: Row) -> Points:
    """Bits and headline by seed."""
    bits = [summary[_BITS] for summary in row.summaries]
    return {seed: (spent, figure) for (seed, figure), spent in zip(row.by_seed.items(), bits, strict=True)}


def scale(study: Study, summaries: Sequence[Mapping[str, Any]]) -> Scale:
    """The floor and the ceiling that teams stand between, over their worlds."""
    ends = (float(np.mean(list(_by_seed(study, summaries, group).values()))) for group in ("floor", "ceiling"))
    return Scale(study.settings.metric, *ends)


def _by_seed(study: Study, summaries: Sequence[Mapping[str, Any]], group: str) -> dict[int, float]:
    key = f"{group}/{study.settings.metric}"
    return {summary["seed"]: study.settings.shared(summary[key]) for summary in summaries}


def _row(study: Study, label: str, summaries: list[dict[str, Any]], values: Mapping[str, Mapping[int, float]]) -> Row:
    own = dict(values[label])
    bits = interval([summary[_BITS] for summary in summaries])
    against = {
        other: found
        for other in (CONTINUOUS, SILENT)
        if other != label and other in values and (found := compare(own, values[other])) is not None
    }
    reasons = []
    if label not in (CONTINUOUS, SILENT):
        among = [values[CONTINUOUS][seed] for seed in own if seed in values.get(CONTINUOUS, {})]
        continuous = float(np.mean(among)) if among else None
        reasons = few_bits_count(_mean(own), continuous, bits.mean, study.settings.most_bits, scale(study, summaries))
    return Row(
        label,
        own,
        interval(list(own.values())),
        bits,
        summaries,
        against,
        reasons,
        _reached(study.settings, label, own),
    )


def _reached(settings: StudySettings, label: str, own: Mapping[int, float]) -> bool | None:
    """Whether the mean and the worst of some seeds are as good as those of all were to be."""
    if label not in settings.reach and label not in settings.worst:
        return None
    good = operator.le if settings.metric == "length" else operator.ge
    mean = good(_mean(own), settings.reach[label]) if label in settings.reach else True
    worst = all(good(value, settings.worst[label]) for value in own.values()) if label in settings.worst else True
    return mean and worst


def _mean(own: Mapping[int, float]) -> float:
    return float(np.mean(list(own.values())))
