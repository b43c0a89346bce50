"""Roads and routes of Traffic Junction (Sukhbaatar et al. 2016, as published with IC3Net, Singh et al. 2019).

Cells are (row, column) from the top left. Traffic keeps to the right. A route is the list of cells from an
entry to an exit; its number is the one of the published environment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

Difficulty = Literal["easy", "medium", "hard"]
Cell = tuple[int, int]
Heading = tuple[int, int]

DOWN, UP, RIGHT, LEFT = (1, 0), (-1, 0), (0, 1), (0, -1)
_CLOCKWISE = {DOWN: LEFT, LEFT: UP, UP: RIGHT, RIGHT: DOWN}
_TURNS = ("straight", "right", "left")


@dataclass(frozen=True)
class RoadMap:
    """The fixed geometry of one difficulty.

    Attributes:
        size: side of the square grid.
        entries: route numbers by entry, entries in the order in which cars are spawned.
        routes: every route, cell by cell.
        cell_ids: the number of each road cell in the one-hot observation.
        num_ids: how many road-cell numbers the observation reserves; a larger number spills over as published.
        headings: where traffic on each road cell may go: one heading on a lane, two where lanes cross.
    """

    size: int
    entries: tuple[tuple[int, ...], ...]
    routes: tuple[tuple[Cell, ...], ...]
    cell_ids: dict[Cell, int]
    num_ids: int
    headings: dict[Cell, tuple[Heading, ...]]


@dataclass(frozen=True)
class _Layout:
    """Rows and columns that are lanes with their headings, grouped into roads, and where cars enter."""

    size: int
    rows: tuple[tuple[tuple[int, Heading], ...], ...]
    columns: tuple[tuple[tuple[int, Heading], ...], ...]
    entries: tuple[Cell, ...]
    turns: tuple[str, ...]
    num_ids: int


_LAYOUTS: dict[str, _Layout] = {
    # The published easy level reserves 12 ids for 14 road cells (6 + 6 lane cells, though the grid is 7 x 7).
    "easy": _Layout(7, (((3, RIGHT),),), (((3, DOWN),),), ((0, 3), (3, 0)), ("straight",), 12),
    "medium": _Layout(
        14, (((6, LEFT), (7, RIGHT)),), (((6, DOWN), (7, UP)),), ((0, 6), (13, 7), (7, 0), (6, 13)), _TURNS, 56
    ),
    "hard": _Layout(
        18,
        (((4, LEFT), (5, RIGHT)), ((12, LEFT), (13, RIGHT))),
        (((4, DOWN), (5, UP)), ((12, DOWN), (13, UP))),
        ((0, 4), (0, 12), (5, 0), (13, 0), (17, 5), (17, 13), (4, 17), (12, 17)),
        _TURNS,
        144,
    ),
}


@cache
def road_map(difficulty: Difficulty) -> RoadMap:
    """The roads, routes and cell ids of a difficulty."""
    layout = _LAYOUTS[difficulty]
    headings = _lane_headings(layout)
    entries: list[tuple[int, ...]] = []
    routes: list[tuple[Cell, ...]] = []
    for entry in layout.entries:
        first = len(routes)
        routes += _routes_from(entry, headings, layout)
        entries.append(tuple(range(first, len(routes))))
    return RoadMap(layout.size, tuple(entries), tuple(routes), _number_cells(layout), layout.num_ids, headings)


def _lane_headings(layout: _Layout) -> dict[Cell, tuple[Heading, ...]]:
    headings: dict[Cell, tuple[Heading, ...]] = {}
    for road in layout.rows:
        for row, heading in road:
            for column in range(layout.size):
                headings[row, column] = (heading,)
    for road in layout.columns:
        for column, heading in road:
            for row in range(layout.size):
                headings[row, column] = (*headings.get((row, column), ()), heading)
    return headings


def _routes_from(entry: Cell, headings: dict[Cell, tuple[Heading, ...]], layout: _Layout) -> list[tuple[Cell, ...]]:
    """All routes of an entry: every pair of decisions, the second left out where only one junction is met."""
    routes = []
    for first in layout.turns:
        for second in layout.turns:
            route, junctions = _drive(entry, headings, layout.size, (first, second))
            routes.append(route)
            if junctions == 1:
                break
    return routes


def _drive(
    entry: Cell, headings: dict[Cell, tuple[Heading, ...]], size: int, decisions: tuple[str, str]
) -> tuple[tuple[Cell, ...], int]:
    """Follow the lanes from an entry, turning as decided at each junction; returns cells and junctions met."""
    cell, heading = entry, headings[entry][0]
    wanted, route, junctions, inside = heading, [entry], 0, False
    while True:
        crossing = len(headings[cell]) > 1
        if crossing and not inside:
            wanted = _turn(heading, decisions[junctions] if junctions < len(decisions) else "straight")
            junctions += 1
        inside = crossing
        if wanted in headings[cell]:
            heading = wanted
        cell = (cell[0] + heading[0], cell[1] + heading[1])
        if not (0 <= cell[0] < size and 0 <= cell[1] < size):
            return tuple(route), junctions
        route.append(cell)


def _turn(heading: Heading, decision: str) -> Heading:
    if decision == "straight":
        return heading
    right = _CLOCKWISE[heading]
    return right if decision == "right" else (-right[0], -right[1])


def _number_cells(layout: _Layout) -> dict[Cell, int]:
    """Number the cells road by road, row-major within a road; where roads cross, the later number stays."""
    ids: dict[Cell, int] = {}
    number = 0
    for road in layout.rows:
        for row, _ in road:
            for column in range(layout.size):
                ids[row, column] = number
                number += 1
    for road in layout.columns:
        for row in range(layout.size):
            for column, _ in road:
                ids[row, column] = number
                number += 1
    return ids
