"""Walks of a listener who hears nothing, or only which of several goals it may be: what silence is worth, exactly.

A walk earns `GOAL_REWARD` on the step that reaches the goal, which ends it, and `STEP_REWARD` on every other one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlcomm.envs.communicating_goal.settings import Cell, CommunicatingGoalSettings

Ints = NDArray[np.int64]

STAY, UP, DOWN, RIGHT, LEFT = range(5)
MOVES: tuple[Cell, ...] = ((0, 0), (0, -1), (0, 1), (1, 0), (-1, 0))  # of x and y, by action
GOAL_REWARD = 1.0
STEP_REWARD = -0.01
_LEAST_GAIN = 1e-9  # less is the rounding of sums
_SLACK = 0.005  # how much worse the search goes on from, on average
_PATCH = 3  # cells along the side of the largest patch


@dataclass(frozen=True)
class Outcome:
    """What happens where the goal is one of a block of goals: sums over them and over starts, weighted by chances.

    Attributes:
        chance: that the goal is in the block.
        reward: expected return.
        success: chance of reaching the goal.
        steps: expected steps, and with them messages.
    """

    chance: float = 0.0
    reward: float = 0.0
    success: float = 0.0
    steps: float = 0.0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.chance + other.chance,
            self.reward + other.reward,
            self.success + other.success,
            self.steps + other.steps,
        )


def cells(settings: CommunicatingGoalSettings) -> Iterator[Cell]:
    """Every cell (x, y), in the order of its number y * size + x."""
    for y in range(settings.size):
        for x in range(settings.size):
            yield x, y


def steps_between(start: Cell, end: Cell) -> int:
    """Fewest steps from cell to cell."""
    return abs(end[0] - start[0]) + abs(end[1] - start[1])


def moves_between(start: Cell, end: Cell) -> list[int]:
    """The actions of a shortest walk, along x first."""
    x, y = end[0] - start[0], end[1] - start[1]
    return [RIGHT if x > 0 else LEFT] * abs(x) + [DOWN if y > 0 else UP] * abs(y)


def destinations(size: int) -> Ints:
    """The cell [size * size, 5] that each action leads to from each cell, clipped at the border."""
    numbers = np.arange(size * size)
    x, y = numbers % size, numbers // size
    step_x, step_y = np.array(MOVES).T
    to_x = (x[:, None] + step_x).clip(0, size - 1)
    to_y = (y[:, None] + step_y).clip(0, size - 1)
    led: Ints = to_y * size + to_x
    return led


class Tours:
    """The best walks with a memory, found exactly.

    Whoever knows the start, the time and the goals that were not there can only choose the order in which to visit
    those that are left, so dynamic programming over (goals left, cell, time) covers all walks: one that passes a goal
    on its way has visited it.
    """

    def __init__(self, settings: CommunicatingGoalSettings) -> None:
        self.settings = settings
        self._best: dict[tuple[frozenset[int], Cell, int], tuple[float, int | None]] = {}

    def order(self, start: Cell, block: Sequence[int]) -> list[int]:
        """The goals of a block (by number) in the order of the best walk; those it never reaches are left out."""
        left = frozenset(block) - {goal for goal in block if self.settings.goals[goal] == start}
        place, time, visited = start, 0, []
        while (goal := self._next(left, place, time)[1]) is not None:
            visited.append(goal)
            time += steps_between(place, self.settings.goals[goal])
            place, left = self.settings.goals[goal], left - {goal}
        return visited

    def _next(self, left: frozenset[int], place: Cell, time: int) -> tuple[float, int | None]:
        """The most that the rest of a walk can add to the return of never arriving, and the goal to visit next."""
        key = (left, place, time)
        if key not in self._best:
            best: tuple[float, int | None] = (0.0, None)
            for goal in sorted(left):
                there = self.settings.goals[goal]
                arrival = time + steps_between(place, there)
                if arrival <= self.settings.horizon:
                    gain = self.settings.chances[goal] * arrival_gain(arrival, self.settings.horizon)
                    gain += self._next(left - {goal}, there, arrival)[0]
                    best = max(best, (gain, goal), key=lambda option: option[0])
            self._best[key] = best
        return self._best[key]

    def outcome(self, block: Sequence[int]) -> Outcome:
        """What the best walks come to where the listener knows that the goal is in this block."""
        return sum((self._from(start, block) for start in cells(self.settings)), Outcome())

    def _from(self, start: Cell, block: Sequence[int]) -> Outcome:
        settings = self.settings
        arrivals, place, time = {}, start, 0
        for goal in self.order(start, block):
            time += steps_between(place, settings.goals[goal])
            arrivals[goal], place = time, settings.goals[goal]
        total = Outcome()
        for goal in block:
            if settings.goals[goal] != start:
                # The listener starts in any of the other cells alike.
                chance = settings.chances[goal] / (settings.size**2 - 1)
                total += outcome_of(arrivals.get(goal), chance, settings.horizon)
        return total

    def moves(self) -> Ints:
        """The actions [start cell, time] of the best silent walks, which stay where nothing is left to visit."""
        settings = self.settings
        table = np.full((settings.size**2, settings.horizon), STAY)
        for number, start in enumerate(cells(settings)):
            walk, place = [], start
            for goal in self.order(start, range(len(settings.goals))):
                walk += moves_between(place, settings.goals[goal])
                place = settings.goals[goal]
            table[number, : len(walk)] = walk
        return table


def arrival_gain(arrival: int, horizon: int) -> float:
    """The return of arriving at a step, less that of never arriving."""
    return GOAL_REWARD + STEP_REWARD * (arrival - 1) - STEP_REWARD * horizon


def outcome_of(arrival: int | None, chance: float, horizon: int) -> Outcome:
    """The outcome of arriving at a step, or never, where that has a chance."""
    if arrival is None:
        return Outcome(chance, chance * STEP_REWARD * horizon, 0.0, chance * horizon)
    return Outcome(chance, chance * (GOAL_REWARD + STEP_REWARD * (arrival - 1)), chance, chance * arrival)


class Maps:
    """Walks without a memory: a map from the cell to a move.

    The best map is searched, not proved: from maps that walk straight to one goal, cell by cell until no single change
    helps, then again and again with a patch drawn anew (iterated local search, which at times accepts a little worse).
    """

    def __init__(self, settings: CommunicatingGoalSettings, starts: int = 12, patches: int = 100) -> None:
        self.settings, self.starts, self.patches = settings, starts, patches
        self._led = destinations(settings.size)

    def best(self, block: Sequence[int]) -> Ints:
        """The best map found, actions [cell], where the goal is one of a block."""
        draws = np.random.default_rng(0)
        first = (self._straight(block[turn % len(block)], draws) for turn in range(self.starts))
        here = best = max((self._climb(chosen, block, draws) for chosen in first), key=_value)
        for _ in range(self.patches):
            there = self._climb(self._patched(here[1], draws), block, draws)
            if there[0] >= here[0] - _SLACK * draws.exponential():
                here = there
                best = max(best, here, key=_value)
        return best[1]

    def _straight(self, goal: int, draws: np.random.Generator) -> Ints:
        """A map [cell] that walks to a goal on shortest ways, and anywhere from there."""
        target, chosen = self.settings.goals[goal], []
        for place in cells(self.settings):
            ways = sorted(set(moves_between(place, target))) or range(len(MOVES))
            chosen.append(draws.choice(ways))
        return np.array(chosen)

    def _patched(self, chosen: Ints, draws: np.random.Generator) -> Ints:
        size = self.settings.size
        (x, y), side = draws.integers(1 - _PATCH, size, 2), draws.integers(2, _PATCH + 1)
        board = chosen.reshape(size, size).copy()
        patch = board[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)]
        patch[:] = draws.integers(0, len(MOVES), patch.shape)
        return board.ravel()

    def outcome(self, block: Sequence[int]) -> Outcome:
        """What the best map found comes to."""
        onward = self._led[np.arange(len(self._led)), self.best(block)]
        return sum((self._from(start, onward, block) for start in range(len(onward))), Outcome())

    def _from(self, start: int, onward: Ints, block: Sequence[int]) -> Outcome:
        settings, place, arrivals = self.settings, start, {start: 0}
        for step in range(1, settings.horizon + 1):
            place = int(onward[place])
            arrivals.setdefault(place, step)
        total = Outcome()
        for goal in block:
            x, y = settings.goals[goal]
            arrival = arrivals.get(y * settings.size + x)
            if arrival != 0:
                chance = settings.chances[goal] / (len(onward) - 1)
                total += outcome_of(arrival, chance, settings.horizon)
        return total

    def _climb(self, chosen: Ints, block: Sequence[int], draws: np.random.Generator) -> tuple[float, Ints]:
        """The value of a map after changing cells, in random order, until no single change helps; and that map."""
        value = float(self._values(chosen[None], block)[0])
        while True:
            before = value
            for cell in draws.permutation(len(chosen)):
                options = np.repeat(chosen[None], len(MOVES), axis=0)
                options[:, cell] = range(len(MOVES))
                values = self._values(options, block)
                if values.max() > value + _LEAST_GAIN:
                    value, chosen = float(values.max()), options[values.argmax()]
            if value == before:
                return value, chosen

    def _values(self, maps: Ints, block: Sequence[int]) -> NDArray[np.float64]:
        """The gain [K] of maps [K, cells] over never arriving."""
        settings, (count, size) = self.settings, maps.shape
        marks, chances = self._marks(block)
        # All maps side by side on one long axis, which is quicker to look up.
        onward = (self._led[np.arange(size), maps] + size * np.arange(count)[:, None]).ravel()
        marks = np.tile(marks, count)
        place, seen, gained = np.arange(count * size), marks, np.zeros(count * size)
        for step in range(1, settings.horizon + 1):
            place = onward[place]
            here = marks[place]
            gained += arrival_gain(step, settings.horizon) * chances[here & ~seen]
            seen = seen | here
        values: NDArray[np.float64] = gained.reshape(count, size).sum(1)
        return values

    def _marks(self, block: Sequence[int]) -> tuple[Ints, NDArray[np.float64]]:
        """A bit for each goal of a block, in its cell [cells]; and the chance by bit [2 ** goals], zero elsewhere."""
        marks, chances = np.zeros(len(self._led), np.int64), np.zeros(2 ** len(block))
        for column, goal in enumerate(block):
            x, y = self.settings.goals[goal]
            marks[y * self.settings.size + x] = 2**column
            chances[2**column] = self.settings.chances[goal]
        return marks, chances


def _value(found: tuple[float, Ints]) -> float:
    return found[0]
