"""Pictures of results. matplotlib is imported here only, and only when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marlcomm.analysis.evidence import best_mixture
from marlcomm.analysis.findings import bits_told, plays
from marlcomm.analysis.shannon import SOURCES
from marlcomm.analysis.study import CURVE

if TYPE_CHECKING:
    from marlcomm.analysis.capacity import Team as Choosing
    from marlcomm.analysis.evidence import Scale
    from marlcomm.analysis.findings import Row
    from marlcomm.analysis.frequency import Team
    from marlcomm.analysis.proving_ground import Trained
    from marlcomm.analysis.rate_distortion import Point
    from marlcomm.analysis.study import Study

_MOST_BITS = 48.0
_COLORS = [f"C{place}" for place in (0, 1, 2, 3, 4, 5, 6, 8, 9)]  # no grey
_MARKERS = "osD^v<>PXhpd8"
_RANKS_IN_A_LINE = 5


def draw_rate_distortion(points: Sequence[Point], file: Path) -> None:
    """A panel for each part and source: error over bits, Shannon's bound, a line for each channel."""
    from matplotlib.figure import Figure

    parts = list(dict.fromkeys(point.part for point in points))
    figure = Figure(figsize=(13, 5 * len(parts)), layout="constrained")
    panels = figure.subplots(len(parts), len(SOURCES), squeeze=False, sharex=True)
    looks = {
        label: {"color": f"C{place % 10}", "marker": _MARKERS[place % len(_MARKERS)]}
        for place, label in enumerate(dict.fromkeys(point.label for point in points))
    }
    for row, part in zip(panels, parts, strict=True):
        for panel, source in zip(row, SOURCES, strict=True):
            own = [point for point in points if point.part == part and point.source == source]
            _draw_panel(panel, source, own, looks)
            panel.set_title(f"{part}, {source} source")
    handles = {label: handle for row in panels for panel in row for handle, label in _entries(panel)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _draw_panel(panel: Any, source: str, points: Sequence[Point], looks: dict[str, dict[str, str]]) -> None:
    bits, least = SOURCES[source].bound(_MOST_BITS)
    panel.plot(bits, least, "k", linewidth=2, label="Shannon's bound")
    panel.fill_between(bits, 0, least, color="0.9")
    for label, look in looks.items():
        seen = sorted((p for p in points if p.label == label and p.bits <= _MOST_BITS), key=lambda point: point.bits)
        if seen:
            panel.plot([p.bits for p in seen], [p.mse for p in seen], linewidth=0.8, markersize=5, label=label, **look)
    panel.set_yscale("log")
    panel.set_ylim(least[-1], 2.5)
    panel.set_xlim(0, _MOST_BITS)
    panel.set_xlabel("bits per message (held out, frozen tables)")
    panel.set_ylabel("squared error per element")
    panel.grid(alpha=0.3)


def _entries(panel: Any) -> list[tuple[Any, str]]:
    return list(zip(*panel.get_legend_handles_labels(), strict=True))


def draw_proving_ground(teams: Sequence[Trained], curve: Sequence[tuple[float, float]], file: Path) -> None:
    """Returns between silence and oracle over coded bits, and the lower curve: all teams, and those that do well.

    A dot for each seed, with the interval of its bits.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 6.5), layout="constrained")
    whole, near = figure.subplots(1, 2, width_ratios=[1, 1.6])
    for panel in (whole, near):
        panel.plot(*zip(*curve, strict=True), "k", linewidth=2, label="lower curve (all namings of the goals)")
        for place, label in enumerate(dict.fromkeys(team.label for team in teams)):
            _draw_teams(panel, [team for team in teams if team.label == label], place)
        for level in (0, 1):
            panel.axhline(level, color="0.6", linewidth=0.8)
        panel.set_xlabel("coded bits per agent step (packets under frozen codes)")
        panel.grid(alpha=0.3)
    whole.set_xscale("symlog", linthresh=1.0)
    whole.set_xlim(-0.1, 1.6 * whole.dataLim.xmax)
    whole.set_ylabel("return: 0 the best silent listener, 1 the oracle")
    whole.set_title("all teams", fontsize=11)
    near.set_xlim(0.7, 2.2 * curve[-1][0])  # more than twice what naming every goal costs is not close
    near.set_ylim(0.5, 1.03)
    near.set_title("those close to the curve", fontsize=11)
    figure.legend(*near.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _draw_teams(panel: Any, teams: Sequence[Trained], place: int) -> None:
    """The seeds of one channel."""
    bits = [team.figures["coded_bits_per_agent_step"] for team in teams]
    ends = [
        [abs(team.figures[f"coded_bits_per_agent_step_{end}"] - value) for team, value in zip(teams, bits, strict=True)]
        for end in ("low", "high")
    ]
    panel.errorbar(
        bits,
        [team.normalized_return for team in teams],
        xerr=ends,
        linestyle="",
        color=_COLORS[place % len(_COLORS)],
        marker=_MARKERS[place % len(_MARKERS)],
        markersize=8,
        markeredgecolor="white",
        label=teams[0].label,
        alpha=0.85,
    )


_BITS = {  # label, color, marker, place beside the goal
    "surrogate_bits": ("surrogate: log2(2 |z| / delta + 1), no code", "C1", "^", -0.15),
    "paper_bits": ("paper bits: log2(2 |m| + 1), no code", "C2", "s", 0.0),
    "code_bits": ("code bits: Elias-gamma, decodable", "C0", "o", 0.15),
}


def draw_frequency(teams: Sequence[Team], file: Path) -> None:
    """A panel for each rate weight: bits per message of goals by how often they are drawn, a dot for each seed."""
    from matplotlib.figure import Figure

    weights = list(dict.fromkeys(team.rate_weight for team in teams))
    figure = Figure(figsize=(6.5 * len(weights), 5.5), layout="constrained")
    panels = figure.subplots(1, len(weights), squeeze=False, sharey=True)[0]
    for panel, weight in zip(panels, weights, strict=True):
        own = [team for team in teams if team.rate_weight == weight]
        _draw_goals(panel, own)
        ranks = ", ".join(_signed(team.spearman["code_bits"]) for team in own)
        panel.set_title(f"rate weight {weight:g}\nSpearman of frequency and code bits: {ranks}", fontsize=11)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("bits per message (dots: seeds; lines: their means)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_BITS))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _draw_goals(panel: Any, teams: Sequence[Team]) -> None:
    goals = sorted({(-goal.chance, goal.cell) for team in teams for goal in team.goals})
    for measure, (label, color, marker, beside) in _BITS.items():
        bits = [[getattr(goal, measure) for team in teams for goal in team.goals if goal.cell == c] for _, c in goals]
        for place, seeds in enumerate(bits):
            panel.plot([place + beside] * len(seeds), seeds, marker, color=color, alpha=0.6, markeredgewidth=0)
        places = [place + beside for place in range(len(goals))]
        means = [sum(seeds) / len(seeds) for seeds in bits]
        panel.plot(places, means, color=color, marker=marker, markersize=0, linewidth=1, alpha=0.7)
        panel.plot([], [], color=color, marker=marker, linewidth=1, label=label)
    panel.set_xticks(range(len(goals)), [f"({x}, {y})\n{-chance:.1%}" for chance, (x, y) in goals])
    panel.set_xlabel("goal, and how often it is drawn")
    panel.grid(alpha=0.3)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def draw_capacity(teams: Sequence[Choosing], file: Path) -> None:
    """A panel for each measure: mean bits of a message over it, a line for each team."""
    from matplotlib.figure import Figure

    from marlcomm.analysis.capacity import MEASURES

    names = [name for name in MEASURES if any(name in team.relations for team in teams)]
    figure = Figure(figsize=(4.5 * len(names), 4.8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for name, panel in zip(names, panels, strict=True):
        relations = [team.relations.get(name) for team in teams]
        for place, (team, relation) in enumerate(zip(teams, relations, strict=True)):
            look = {"color": _COLORS[place % len(_COLORS)], "marker": _MARKERS[place % len(_MARKERS)]}
            curve = [] if relation is None else relation.curve
            panel.plot(*np.reshape(curve, (-1, 2)).T, **look, markersize=4, linewidth=1, label=team.run)
        ranks = ["-" if relation is None else _signed(relation.spearman) for relation in relations]
        lines = [", ".join(ranks[first : first + _RANKS_IN_A_LINE]) for first in range(0, len(ranks), _RANKS_IN_A_LINE)]
        panel.set_title("Spearman: " + "\n".join(lines), fontsize=9)
        panel.set_xlabel(MEASURES[name])
        panel.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)  # after all are drawn: it also fixes the top
    panels[0].set_ylabel("bits of the chosen quantiser, selector included")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def draw_study(study: Study, rows: Sequence[Row], scale: Scale, file: Path) -> None:
    """The headline figure of every seed over its bits, between floor and ceiling, and beside it its curves.

    Where teams are held against a hull, a panel between the two shows them near it. Teams that play other worlds than
    the first ones have another floor and ceiling: they are left to the table.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if plays(row) == plays(rows[0])]
    learned = any(summary.get(CURVE) for row in rows for summary in row.summaries)
    hull = _hull(study, rows)
    figure = Figure(figsize=(9 + 4 * learned + 4 * (hull is not None), 4.8), layout="constrained")
    panels = figure.subplots(1, 1 + (hull is not None) + learned, squeeze=False)[0]
    whole = [panels[0], *panels[-1:]] if learned else [panels[0]]
    for panel in whole:
        # At opposite ends, for the two may be as good as equal.
        for name, level, end, side in (("floor", scale.floor, 1, "right"), ("ceiling", scale.ceiling, 0, "left")):
            if level is None:
                continue
            panel.axhline(level, color="0.6", linewidth=0.8)
            panel.annotate(name, (end, level), xycoords=("axes fraction", "data"), ha=side, va="bottom", color="0.4")
        for name, level in study.settings.known.items():
            panel.axhline(level, color="0.6", linewidth=0.8, linestyle=":")
            panel.annotate(
                name, (0.5, level), xycoords=("axes fraction", "data"), ha="center", va="top", color="0.4", fontsize=8
            )
    looks = {row.label: (_COLORS[n % len(_COLORS)], _MARKERS[n % len(_MARKERS)]) for n, row in enumerate(rows)}
    _draw_bits(panels[0], rows, study.settings.most_bits, looks)
    if hull is not None:
        _draw_near(panels[1], rows, *hull, looks)
    if learned:
        panels[-1].sharey(panels[0])
        panels[-1].tick_params(labelleft=False)
        _draw_curves(panels[-1], study, rows, looks)
    for panel in panels:
        panel.grid(alpha=0.3)
    share = "" if study.settings.share == 1 else f" / {study.settings.share}"
    unit = " (steps)" if study.settings.metric == "length" else ""
    panels[0].set_ylabel(f"{study.settings.metric}{share}{unit}")
    if study.settings.metric == "length":
        panels[0].invert_yaxis()  # less is better
    figure.suptitle(study.settings.title, fontsize=11)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _hull(study: Study, rows: Sequence[Row]) -> tuple[list[Row], list[Row]] | None:
    """The teams whose hull it is, and those that are to stand above it, if there are both."""
    if (settings := study.settings.hull) is None:
        return None
    by_label = {row.label: row for row in rows}
    below, above = (
        [by_label[label] for label in labels if label in by_label] for labels in (settings.of, settings.above)
    )
    return (below, above) if len(below) == len(settings.of) and above else None


def _draw_bits(panel: Any, rows: Sequence[Row], most_bits: float | None, looks: dict[str, tuple[str, str]]) -> None:
    from matplotlib.ticker import ScalarFormatter

    furthest = max([most_bits or 1.0, *(bits for row in rows for bits in row.bits_by_seed.values())])
    _draw_seeds(panel, rows, looks)
    if most_bits is not None:
        panel.axvline(most_bits, color="0.8", linewidth=0.8, linestyle="--")
    panel.set_xscale("symlog", linthresh=1.0)
    panel.xaxis.set_major_formatter(ScalarFormatter())
    panel.set_xlim(-0.1, 1.6 * furthest)
    dashed = "" if most_bits is None else "; dashed: the most that count"
    panel.set_xlabel(f"{bits_told(rows)}\n(dots: seeds; large: their mean{dashed})")


def _draw_near(
    panel: Any, rows: Sequence[Row], of: Sequence[Row], above: Sequence[Row], looks: dict[str, tuple[str, str]]
) -> None:
    """All teams in the range of those `above`, and the upper hull of the means of `of`."""
    means = np.array([(row.bits.mean, row.figure.mean) for row in of])
    furthest = 1.1 * max(row.bits.mean for row in (*of, *above))
    bits = np.linspace(means[:, 0].min(), furthest, 500)
    _draw_seeds(panel, rows, looks)
    heights = [np.nan if (shares := best_mixture(means, each)) is None else shares @ means[:, 1] for each in bits]
    panel.plot(bits, heights, "k", linewidth=1)
    reached = [figure for row in above for figure in row.by_seed.values()]
    low, high = min(reached), max([*reached, *(figure for row in of for figure in row.by_seed.values())])
    panel.set_xlim(0, furthest)
    panel.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    panel.set_xlabel(f"{bits_told(rows)}\n(line: upper hull of {len(of)}, of their means)")


def _draw_seeds(panel: Any, rows: Sequence[Row], looks: dict[str, tuple[str, str]]) -> None:
    """Headline over bits: a dot for each seed, and their mean."""
    for row in rows:
        color, marker = looks[row.label]
        bits = list(row.bits_by_seed.values())
        panel.scatter(bits, list(row.by_seed.values()), 25, c=color, marker=marker, alpha=0.6, linewidths=0)
        panel.scatter(
            row.bits.mean, row.figure.mean, 120, marker=marker, facecolors="none", edgecolors=color, label=_named(row)
        )


def _named(row: Row) -> str:
    return f"{row.label} (no evidence)" if row.doubts else row.label


def _draw_curves(panel: Any, study: Study, rows: Sequence[Row], looks: dict[str, tuple[str, str]]) -> None:
    for row in rows:
        for summary in row.summaries:
            points = [(env_steps / 1e6, study.settings.shared(value)) for env_steps, value in summary.get(CURVE, [])]
            if points:
                color, marker = looks[row.label]
                look = {"color": color, "marker": marker, "markevery": [-1], "markersize": 5}
                panel.plot(*zip(*points, strict=True), **look, linewidth=1, alpha=0.7)
    panel.set_xlabel("million env steps\n(short evaluations, sampled actions, a line for each seed)")
