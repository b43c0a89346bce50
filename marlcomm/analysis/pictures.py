"""Pictures of results. matplotlib is imported here only, and only when something is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlcomm.analysis.shannon import SOURCES

if TYPE_CHECKING:
    from marlcomm.analysis.rate_distortion import Point

_MOST_BITS = 48.0
_MARKERS = "osD^v<>PX*hpd"


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
