"""The least that any naming of goals costs on Communicating Goal: a curve from silence to the oracle, exactly.

A speaker that says the same at every step of an episode names a block of goals and nothing more. So every way to
speak is a set partition of the goals (203 of six), its cost the entropy of the block, its worth the return of the best
listener who knows the block. The lower convex hull of all of them is what teams are compared with.

Two weightings give two costs. Once an episode, blocks come as often as their goals are drawn (six goals: 1.81 bits).
Once a message, they come as often as they are *said*, and a goal that takes longer to reach is said more often (1.62
bits under the oracle). A team whose messages change from step to step (dither, a clock) spreads its description over
several messages, so it may lie below the second curve; the first one it may only undercut by telling late what an early
find makes needless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings
from marlcomm.envs.communicating_goal.walks import Maps, Outcome, Tours
from marlcomm.registry import ConfigError

_WORTH_NOTHING = 1e-9  # a return, up to rounding

Block = tuple[int, ...]
Partition = tuple[Block, ...]
Weighting = Literal["episode", "message"]


@dataclass(frozen=True)
class Point:
    """One partition of the goals under the best listener.

    Attributes:
        partition: which goals share a message, by number.
        bits_per_episode: entropy of the block over episodes.
        bits_per_message: entropy of the block over messages, one at each step.
        reward: expected return.
        normalized_return: 0 is the best silent listener (with a memory), 1 the oracle.
        success: chance of reaching the goal in time.
        steps: expected steps, and with them messages.
    """

    partition: Partition
    bits_per_episode: float
    bits_per_message: float
    reward: float
    normalized_return: float
    success: float
    steps: float

    def bits(self, weighting: Weighting) -> float:
        """The cost under a weighting."""
        return self.bits_per_episode if weighting == "episode" else self.bits_per_message


def partitions(items: int) -> Iterator[Partition]:
    """All set partitions of 0 .. items - 1: blocks ordered by their first item."""
    if items == 0:
        yield ()
        return
    last = items - 1
    for smaller in partitions(last):
        for index, block in enumerate(smaller):
            yield (*smaller[:index], (*block, last), *smaller[index + 1 :])
        yield (*smaller, (last,))


def entropy(weights: Sequence[float]) -> float:
    """Entropy in bits of weights that need not sum to 1."""
    shares = np.asarray(weights) / np.sum(weights)
    return abs(float((shares * np.log2(shares)).sum()))


def points(settings: CommunicatingGoalSettings, listener: Literal["memory", "memoryless"] = "memory") -> list[Point]:
    """A point for each partition of the goals.

    Args:
        settings: of the world; its horizon decides what silence is worth.
        listener: "memory" knows its start, the time and where it has been, and its walks are optimal; "memoryless"
            knows its cell, and its walks are the best that a search found.
    """
    walks = Tours(settings) if listener == "memory" else Maps(settings)
    goals = len(settings.goals)
    outcomes = _outcomes(walks.outcome, goals)
    silent, oracle = references(settings)
    if oracle - silent < _WORTH_NOTHING:
        raise ConfigError(
            "env: in this world the best silent listener is as good as the oracle: naming is worth nothing"
        )
    found = []
    for partition in partitions(goals):
        told = [outcomes[block] for block in partition]
        whole = sum(told, Outcome())
        found.append(
            Point(
                partition,
                bits_per_episode=entropy([block.chance for block in told]),
                bits_per_message=entropy([block.steps for block in told]),
                reward=whole.reward,
                normalized_return=(whole.reward - silent) / (oracle - silent),
                success=whole.success,
                steps=whole.steps,
            )
        )
    return found


def _outcomes(outcome: Callable[[Sequence[int]], Outcome], goals: int) -> dict[Block, Outcome]:
    """The outcome of every block that a partition can hold."""
    blocks = {block for partition in partitions(goals) for block in partition}
    return {block: outcome(block) for block in sorted(blocks)}


def references(settings: CommunicatingGoalSettings) -> tuple[float, float]:
    """The exact returns of the best silent listener (with a memory) and of the oracle."""
    tours, goals = Tours(settings), range(len(settings.goals))
    return tours.outcome(goals).reward, sum(tours.outcome([goal]).reward for goal in goals)


def lower_hull(found: Sequence[Point], weighting: Weighting) -> list[Point]:
    """The points on the lower convex hull of (normalised return, bits): the least bits for each return.

    It begins at the cheapest point and ends at the best. Between two of them lie teams that draw which of the two to
    be for each episode, at random but together (per message: nearly, since episodes differ in length).
    """
    hull: list[Point] = []
    for point in sorted(found, key=lambda point: (point.normalized_return, point.bits(weighting))):
        while hull and hull[-1].bits(weighting) >= point.bits(weighting):
            hull.pop()  # no better for as much
        while len(hull) > 1 and _turn(hull[-2], hull[-1], point, weighting) <= 0:
            hull.pop()
        hull.append(point)
    return hull


def _turn(first: Point, second: Point, third: Point, weighting: Weighting) -> float:
    """Positive where the way over three points turns upwards."""
    x = [point.normalized_return - first.normalized_return for point in (second, third)]
    y = [point.bits(weighting) - first.bits(weighting) for point in (second, third)]
    return x[0] * y[1] - x[1] * y[0]


def least_bits(hull: Sequence[Point], normalized_return: float, weighting: Weighting) -> float:
    """The hull's height in bits at a normalised return, zero below it; infinite above the oracle."""
    returns = [point.normalized_return for point in hull]
    if normalized_return > returns[-1]:
        return float("inf")
    return float(np.interp(normalized_return, returns, [point.bits(weighting) for point in hull]))
