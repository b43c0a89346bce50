"""What studies found: a row for each team, by the rules of evidence."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    shortcomings,
    way,
)
from marlcomm.analysis.study import Study
from marlcomm.analysis.study_settings import CONTINUOUS, SILENT, StudySettings

CODED_BITS = "coded_bits_per_agent_step"
_READ = "bottleneck_bits_per_agent_step"
_ENDS = {"success": (0.0, 1.0)}  # that no figure lies beyond
_SAME_BUDGET = 0.05  # by which env steps of teams that are compared may differ


@dataclass(frozen=True)
class Row:
    """What teams of one label did.

    Attributes:
        group: which actions its figures are of, see `StudySettings.group`.
        by_seed: the headline figure, seed -> value.
        bits_by_seed: coded bits per living agent's step; of channels at the read-out, bits read there.
        figure, bits: over seeds.
        summaries: of the seeds.
        doubts: why some of it is no evidence, failed seeds included, in sentences. Such a row claims nothing.
        against: comparisons with other teams, by their labels, and with a hull of others.
        reasons: why its few bits do not count; None where bits are not few, or not judged.
        reached: whether the seeds that are there reach what was to be reached; None where nothing was asked, or there
            is no other team yet that it was to come close to.
    """

    label: str
    group: str
    by_seed: dict[int, float]
    bits_by_seed: dict[int, float]
    figure: Interval
    bits: Interval
    summaries: list[dict[str, Any]]
    doubts: list[str]
    against: dict[str, Comparison]
    reasons: list[str] | None
    reached: bool | None

    def mean(self, name: str, group: str | None = None) -> float | None:
        """The mean of a figure over seeds, of this or another group; None where one lacks it."""
        values = [summary.get(f"{group or self.group}/{name}") for summary in self.summaries]
        return None if None in values else float(np.mean(cast(list[float], values)))

    @property
    def counts(self) -> str:
        """Whether its few bits count, or why not; nothing where they are not judged."""
        return "" if self.reasons is None else "; ".join(self.reasons) or "yes"

    def way(self, name: str) -> float | None:
        """How far from floor to ceiling success or return have come, mean over seeds; None where there is no way."""
        ways = [come for summary in self.summaries if (come := way(summary, name, self.group)) is not None]
        return float(np.mean(ways)) if ways else None

    @property
    def cost(self) -> tuple[float, float]:
        """Env steps and minutes of a core, means over seeds, that training took, with that of what it began with."""
        spent = [(one["env_steps"], one["core_seconds"]) for one in map(_all_trained, self.summaries)]
        steps, seconds = np.mean(spent, axis=0)
        return float(steps), float(seconds) / 60


def _all_trained(summary: Mapping[str, Any]) -> dict[str, float]:
    before = summary.get("init_from", {})
    return {name: summary[name] + before.get(name, 0) for name in ("env_steps", "core_seconds")}


def rows(study: Study) -> list[Row]:
    """All that was found, in the order of the study."""
    evaluations = study.evaluations()
    values = {label: _by_seed(study, summaries, study.settings.group) for label, summaries in evaluations.items()}
    failures = study.failures()
    no_evidence = {
        label: _doubts(study, label, summaries, failures.get(study.settings.trained(label), {}))
        for label, summaries in evaluations.items()
    }
    teams = {
        label: Row(
            label,
            group=(group := study.settings.group),
            by_seed=(own := values[label]),
            bits_by_seed=(spent := {summary["seed"]: _read(summary, group) for summary in summaries}),
            figure=interval(list(own.values()), *_ENDS.get(study.settings.metric, ())),
            bits=interval(list(spent.values()), least=0.0),
            summaries=summaries,
            doubts=no_evidence[label],
            against={},
            reasons=None,
            reached=None,
        )
        for label, summaries in evaluations.items()
    }
    found = {label: _beside(study, row, teams) for label, row in teams.items()}
    _beside_the_hull(study.settings, found)
    return list(found.values())


def _read(summary: Mapping[str, Any], group: str) -> float:
    """Bits that somebody reads: of links, or of a channel at the read-out those there."""
    return cast(float, summary.get(f"{group}/{_READ}", summary[f"{group}/{CODED_BITS}"]))


def bits_told(found: Sequence[Row]) -> str:
    """What the bits of some rows are, in words."""
    read = any(f"{row.group}/{_READ}" in summary for row in found for summary in row.summaries)
    return "coded bits per agent step" + (" (at the read-out: bits read)" if read else "")


def _doubts(study: Study, label: str, summaries: Sequence[Mapping[str, Any]], failures: Mapping[int, str]) -> list[str]:
    """Why results are no evidence, in sentences."""
    found = [
        f"seed {summary['seed']}: {reason}"
        for summary in summaries
        for reason in dict.fromkeys([*shortcomings(summary), *summary["no_evidence"]])
    ]
    found += [
        f"seed {summary['seed']}: played the worlds of seed {summary['evaluation_seed']}"
        for summary in summaries
        if summary["evaluation_seed"] != summary["seed"]
    ]
    found += study.untried(study.settings.trained(label))
    known = [summary for summary in summaries if "settings" in summary]
    found += [
        f"seed {summary['seed']}: its settings were not recorded" for summary in summaries if summary not in known
    ]
    for summary, strays in zip(known, study.strays(label, [one["settings"] for one in known]), strict=True):
        if (now := study.evaluation_command(label, summary["seed"])) not in (None, summary.get("evaluation_command")):
            found.append(f"seed {summary['seed']}: evaluated otherwise than by {now}, as the study says now")
        if strays:
            changed = ", ".join(f"{key} = {then!r}" for key, (then, _) in strays.items())
            found.append(f"seed {summary['seed']}: trained with {changed}, otherwise than the study says now")
    return found + [f"seed {seed} failed: {why}" for seed, why in failures.items()]


def _beside(study: Study, row: Row, teams: Mapping[str, Row]) -> Row:
    """A row judged, and compared with those it is to stand beside."""
    settings = study.settings
    here = {label: team for label, team in teams.items() if plays(team) == plays(row)}
    numbers = settings.numbers_of(row.label)
    usual = () if row.label == SILENT else (numbers, SILENT)  # those are compared with the silent team already
    beside = dict.fromkeys(usual, here) | dict.fromkeys(settings.against.get(row.label, ()), teams)
    against = {
        other: replace(comparison, withheld=_incomparable([row, among[other]]))
        for other, among in beside.items()
        if other in among and other != row.label
        if (comparison := compare(row.by_seed, among[other].by_seed)) is not None
    }
    bounded = all(summary["channel"] not in (CONTINUOUS, SILENT) for summary in row.summaries)
    most_bits = settings.most_bits if bounded else None
    return replace(
        row,
        against=against,
        reasons=None if most_bits is None else _why_not(study, row, here.get(numbers), here.get(SILENT), most_bits),
        reached=_reached(settings, row.label, row.by_seed, here[numbers].by_seed if numbers in here else {}),
    )


def plays(row: Row) -> set[tuple[str, str]]:
    """The worlds, and their settings, that a row's figures are of."""
    return {(summary["env"], summary["setting"]) for summary in row.summaries}


def _incomparable(compared: Sequence[Row]) -> str:
    """Why nothing may be claimed of some rows together; empty where it may."""
    doubtful = [row.label for row in compared if row.doubts]
    if doubtful:
        return f"{' and '.join(doubtful)} {'is' if len(doubtful) == 1 else 'are'} no evidence"
    env_steps = [row.cost[0] for row in compared]
    return "trained for other env steps" if max(env_steps) > (1 + _SAME_BUDGET) * min(env_steps) else ""


def _why_not(study: Study, row: Row, numbers: Row | None, silent: Row | None, most_bits: float) -> list[str]:
    """Why a row's few bits do not count beside the numbers of another and beside silence, in sentences."""
    partner = {} if numbers is None else numbers.by_seed
    both = row.by_seed.keys() & partner.keys()
    found = few_bits_count(
        _mean({seed: row.by_seed[seed] for seed in both}) if both else row.figure.mean,
        _mean({seed: partner[seed] for seed in both}) if both else None,
        cast(float, row.mean(CODED_BITS)),  # what links carry, wherever the channel is
        most_bits,
        scale(study, row.summaries),
    )
    if silent is None:
        found.append("there is no silent team to compare with")
    incomparable = _incomparable([one for one in (row, numbers, silent) if one is not None])
    return [*found, incomparable] if incomparable else found


def _beside_the_hull(settings: StudySettings, found: Mapping[str, Row]) -> None:
    """Add to rows how far they stand above the upper hull of others on the same worlds."""
    if settings.hull is None or not found.keys() >= set(settings.hull.of):
        return
    others = [found[label] for label in settings.hull.of]
    for row in (found[label] for label in settings.hull.above if label in found):
        comparison = above_hull(_points(row), [_points(other) for other in others])
        if comparison is not None and all(plays(other) == plays(row) for other in others):
            row.against[f"upper hull of {len(others)}"] = replace(comparison, withheld=_incomparable([row, *others]))


def _points(row: Row) -> Points:
    """Bits and headline by seed."""
    return {seed: (row.bits_by_seed[seed], figure) for seed, figure in row.by_seed.items()}


def doubts(study: Study, found: Sequence[Row]) -> list[str]:
    """Why some of what was found is no evidence, what failed and left nothing, and which files are of no team."""
    told = {row.label for row in found}
    return [
        *(f"no evidence: {row.label}, {doubt}" for row in found for doubt in row.doubts),
        *(
            f"failed: {label}, seed {seed}: {why}"
            for label, seeds in study.failures().items()
            for seed, why in seeds.items()
            if label not in told
        ),
        *(f"of no team and seed of this study: {file}" for file in study.strangers()),
    ]


def scale(study: Study, summaries: Sequence[Mapping[str, Any]]) -> Scale:
    """The floor and the ceiling that teams stand between, over their worlds; None where those have none."""
    ends = (
        _mean(_by_seed(study, summaries, group)) if all(group in summary for summary in summaries) else None
        for group in ("floor", "ceiling")
    )
    return Scale(study.settings.metric, *ends)


def _by_seed(study: Study, summaries: Sequence[Mapping[str, Any]], group: str) -> dict[int, float]:
    key = f"{group}/{study.settings.metric}"
    return {summary["seed"]: study.settings.shared(summary[key]) for summary in summaries}


def _reached(
    settings: StudySettings, label: str, own: Mapping[int, float], numbers: Mapping[int, float]
) -> bool | None:
    """Whether the mean and the worst of some seeds are as good as those of all were to be; None: nobody can tell."""
    good, sign = (operator.le, 1) if settings.metric == "length" else (operator.ge, -1)
    found = []
    if label in settings.reach:
        found.append(good(_mean(own), settings.reach[label]))
    if label in settings.worst:
        found += [good(value, settings.worst[label]) for value in own.values()]
    if label in settings.within:
        lost = {seed: sign * (own[seed] - numbers[seed]) for seed in own.keys() & numbers.keys()}
        if not lost:
            return None if all(found) else False
        found.append(_mean(lost) <= settings.within[label])
    return all(found) if found else None


def _mean(own: Mapping[int, float]) -> float:
    return float(np.mean(list(own.values())))
