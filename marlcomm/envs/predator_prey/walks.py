"""Walks of a predator that hears nothing: what silence is worth.

A silent predator walks on until it sees the prey, then goes straight there. It cannot know where the prey stands, only
choose the order in which it looks at cells. Predators do not block each other, and under mixed rewards each one is paid
for its own arrival, so walks are searched and valued one by one.

C cells, K cells in view, S starts, T horizon, A actions. Cells are numbered row by row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UP, RIGHT, DOWN, LEFT, STAY = range(5)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))  # of row and column, by action
_LEAN_BY_ROW, _LEAN_BY_DIAGONAL = 1.0, 2.0


def destinations(size: int) -> Ints:
    """The cell [C, A] that each action leads to from each cell; who would leave the grid stays."""
    row, column = np.divmod(np.arange(size * size), size)
    down, right = np.array(MOVES).T
    led: Ints = (row[:, None] + down).clip(0, size - 1) * size + (column[:, None] + right).clip(0, size - 1)
    return led


def views(size: int, vision: int) -> Ints:
    """The cells [C, K] that are seen from each cell, row by row; C, one more than there is, for those outside."""
    offsets = np.arange(-vision, vision + 1)
    row, column = np.divmod(np.arange(size * size)[:, None, None], size)
    seen_row, seen_column = row + offsets[:, None], column + offsets
    inside = (seen_row >= 0) & (seen_row < size) & (seen_column >= 0) & (seen_column < size)
    seen: Ints = np.where(inside, seen_row * size + seen_column, size * size)
    return seen.reshape(size * size, -1)


def ways(vision: int) -> Ints:
    """Fewest steps [K] to each cell in view."""
    offsets = np.abs(np.arange(-vision, vision + 1))
    steps: Ints = (offsets[:, None] + offsets).ravel()
    return steps


def arrivals(walks: Ints, size: int, vision: int) -> Ints:
    """The step [S, C] at which each walk [S, T + 1] stands on a prey in each cell; T + 1 where it never does."""
    seen, steps = views(size, vision), ways(vision)
    never = walks.shape[1]
    arrived = np.full((len(walks), size * size + 1), never)
    for time in reversed(range(never)):  # what is seen earlier overwrites
        np.put_along_axis(arrived, seen[walks[:, time]], np.minimum(time + steps, never)[None], axis=1)
    return arrived[:, :-1]


def steps_alone(arrived: Ints) -> float:
    """Mean steps that a predator spends off the prey, its horizon where it never arrives; from arrivals [C, C]."""
    elsewhere = ~np.eye(len(arrived), dtype=bool)
    return float(arrived[elsewhere].mean()) - 1


def steps_together(arrived: Ints, horizon: int, predators: int) -> float:
    """Mean steps until the last predator has arrived, if each start is drawn alone; from arrivals [C, C]."""
    elsewhere = len(arrived) - 1
    return float(sum((1 - (((arrived <= t).sum(0) - 1) / elsewhere) ** predators).mean() for t in range(horizon)))


def sweep(size: int, vision: int, horizon: int, predators: int) -> Ints:
    """The best walk found [C, T + 1] from every start, with a memory.

    Alone, the order of cells matters little. If all predators look at the same cells first, the last one arrives much
    sooner, so cells weigh less row by row, or diagonal by diagonal: whichever is quicker together.
    """
    row, column = np.divmod(np.arange(size**2), size)
    leans = (_LEAN_BY_ROW * (row * size + column) / size**2, _LEAN_BY_DIAGONAL * (row + column) / (2 * size))
    found = [Sweeps(size, vision, horizon, np.exp(-lean)).walks() for lean in leans]
    return min(found, key=lambda walks: steps_together(arrivals(walks, size, vision), horizon, predators))


@dataclass(frozen=True)
class Sweeps:
    """Walks that see much early, by beam search from all starts at once.

    Attributes:
        size, vision, horizon: of the world.
        weights: [C], what it is worth to arrive one step earlier at a prey in each cell.
        width: W, how many walks from each start are kept at each step.
    """

    size: int
    vision: int
    horizon: int
    weights: Floats
    width: int = 30

    def walks(self) -> Ints:
        """The best walk found [C, T + 1] from every start.

        The next steps of every kept walk are M = 4 W candidates; of those that stand in one cell and have seen the same
        cells, only the best one is kept.
        """
        onward, seen_from = destinations(self.size)[:, :STAY], views(self.size, self.vision)
        cells, moves = onward.shape
        worth, steps = self._worth(), ways(self.vision)
        marks = np.append(np.random.default_rng(0).integers(0, 2**62, cells), 0)
        starts = np.arange(cells)[:, None]
        place, parent, seen = starts, np.zeros_like(starts), np.zeros((cells, 1, cells + 1), bool)
        gained, known = np.zeros(place.shape), np.zeros_like(starts)
        beams = []
        for time in range(self.horizon + 1):
            view = seen_from[place]
            fresh = ~seen[starts[..., None], parent[..., None], view]
            gained = gained + (fresh * worth[view, time + steps]).sum(2)
            known = known + (fresh * marks[view]).sum(2)  # sets of cells are told apart by sums of marks
            kept = _best(gained, known + place, self.width)
            place, parent, gained, known = (np.take_along_axis(x, kept, 1) for x in (place, parent, gained, known))
            beams.append((place, parent))
            seen = seen[starts, parent]
            np.put_along_axis(seen, seen_from[place], True, 2)
            parent = np.tile(np.arange(place.shape[1]).repeat(moves), (cells, 1))
            place, gained, known = onward[place].reshape(cells, -1), gained.repeat(moves, 1), known.repeat(moves, 1)
        return _traced(beams)

    def _worth(self) -> Floats:
        """Of arriving at a prey in each cell, or outside, at each step, also after the horizon: [C + 1, T + 2V + 1]."""
        early = (self.horizon + 1.0 - np.arange(self.horizon + 2 * self.vision + 1)).clip(0)
        return np.outer(np.append(self.weights, 0.0), early)


def _best(gained: Floats, keys: Ints, width: int) -> Ints:
    """The columns [S, W] of the largest gains [S, M], the first of those with one key."""
    order = np.argsort(-gained, axis=1, kind="stable")
    keys = np.take_along_axis(keys, order, 1)
    by_key = np.argsort(keys, axis=1, kind="stable")
    keys = np.take_along_axis(keys, by_key, 1)
    again = np.zeros(keys.shape, bool)
    np.put_along_axis(again, by_key[:, 1:], keys[:, 1:] == keys[:, :-1], 1)
    return np.take_along_axis(order, np.argsort(again, axis=1, kind="stable")[:, :width], 1)


def _traced(beams: list[tuple[Ints, Ints]]) -> Ints:
    """The walk [S, T + 1] that ends in the first column of the last beam; each beam is (cells, columns before)."""
    column = np.zeros((len(beams[0][0]), 1), np.int64)
    walk = []
    for place, parent in reversed(beams):
        walk.append(np.take_along_axis(place, column, 1))
        column = np.take_along_axis(parent, column, 1)
    return np.concatenate(walk[::-1], axis=1)


def circuit(size: int, vision: int, horizon: int) -> Ints:
    """The best map found from a cell to the next one, [C]: a walk without a memory, round and round the grid."""
    maps = [_entered(round_trip, size) for round_trip in _combs(size, vision)]
    return min(maps, key=lambda onward: steps_alone(arrivals(along(onward, horizon), size, vision)))


def along(onward: Ints, horizon: int) -> Ints:
    """The walks [C, T + 1] from all cells along a map [C]."""
    walk = [np.arange(len(onward))]
    for _ in range(horizon):
        walk.append(onward[walk[-1]])
    return np.stack(walk, axis=1)


def _combs(size: int, vision: int) -> Iterator[list[tuple[int, int]]]:
    """Closed ways (row, column) shaped like combs: down a column, back up along teeth to the right of it.

    Teeth come in pairs, as far apart as may be without leaving a cell unseen between them, or one cell less.
    """
    last, reach = size - 1, min(2 * vision + 1, size - 1)
    for first, gap, column, right in itertools.product(
        range(vision + 1), range(max(reach - 1, 1), reach + 1), range(vision + 1), range(last, last - vision - 1, -1)
    ):
        if column < right:
            for teeth in range(2, (last - first) // gap + 2, 2):
                for left in {column + 1, min(column + reach, right)}:
                    yield _comb([first + gap * tooth for tooth in range(teeth)], column, left, right)


def _comb(rows: list[int], column: int, left: int, right: int) -> list[tuple[int, int]]:
    corners = [(rows[0], column)]
    for number, row in enumerate(rows):
        # The first tooth begins, and the last one ends, at the column itself.
        inner = column if number in (0, len(rows) - 1) else left
        corners += [(row, inner), (row, right)] if number % 2 == 0 else [(row, right), (row, inner)]
    corners.append((rows[0], column))
    way = []
    for (row, from_column), (to_row, to_column) in itertools.pairwise(corners):
        steps = max(abs(to_row - row), abs(to_column - from_column))
        down, across = np.sign(to_row - row), np.sign(to_column - from_column)
        way += [(row + int(down) * step, from_column + int(across) * step) for step in range(steps)]
    return way


def _entered(way: list[tuple[int, int]], size: int) -> Ints:
    """The map [C] that follows a closed way, and leads everybody else to its nearest cell, along the row last."""
    numbers = [row * size + column for row, column in way]
    cells, on_way = np.arange(size**2), np.array(way)
    row, column = np.divmod(cells, size)
    away = np.abs(row[:, None] - on_way[:, 0]) + np.abs(column[:, None] - on_way[:, 1])
    nearest_row, nearest_column = on_way[away.argmin(1)].T
    down, across = np.sign(nearest_row - row), np.sign(nearest_column - column)
    onward: Ints = cells + np.where(down != 0, size * down, across)
    onward[numbers] = [*numbers[1:], numbers[0]]
    return onward
