"""Spaces of different agents as one: observations as padded vectors, actions as numbers or points of one box.

Padding is SuperSuit's. Its functions are called themselves, and not the wrappers made of them, `pad_observations_v0`
and `pad_action_space_v0`: those take a parallel environment through AEC and back, which halves the speed of MPE's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from marlcomm.registry import ConfigError

try:
    from supersuit.utils.action_transforms import homogenize_ops as supersuit
except ImportError:
    supersuit = None

Bounds = tuple[tuple[float, ...], tuple[float, ...]]

_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
_BITS_OF_A_FLOAT = 32


def need_supersuit() -> None:
    """Raise `ConfigError` where SuperSuit is not installed."""
    if supersuit is None:
        raise ConfigError("env.name: pettingzoo needs SuperSuit: pip install 'marlcomm[pettingzoo]'")


class Sight:
    """One agent's observations as vectors: flattened, bytes of pictures divided by 255, without the others' words.

    Attributes:
        space: a float32 box of such vectors, before padding.
    """

    def __init__(self, agent: str, space: gym.Space[Any], removed: list[int]) -> None:
        if not isinstance(space, _FLAT):
            raise ConfigError(
                f"env.maker: {agent} observes a {type(space).__name__} space, wanted one of "
                f"{', '.join(kind.__name__ for kind in _FLAT)}: wrap it, so that its observations are arrays"
            )
        self._agent, self._given = agent, space
        self._scale = 1 / 255 if isinstance(space, spaces.Box) and space.dtype == np.uint8 else 1.0
        whole = spaces.flatten_space(space)
        assert isinstance(whole, spaces.Box)
        self._width = len(whole.low)
        if removed and removed[-1] >= self._width:
            raise ConfigError(
                f"env.message_observations: {agent} has no number {removed[-1]}: it observes {self._width} numbers"
            )
        self._kept = np.setdiff1d(np.arange(self._width), removed)
        low, high = (self._scale * bound.astype(np.float32)[self._kept] for bound in (whole.low, whole.high))
        self.space = spaces.Box(low, high, dtype=np.float32)

    def vector(self, observation: Any) -> NDArray[np.float32]:
        """The vector of an observation."""
        flat = np.asarray(spaces.flatten(self._given, observation), np.float32)
        if flat.shape != (self._width,):
            raise ValueError(f"{self._agent} observes {flat.size} numbers, its observation space says {self._width}")
        return self._scale * flat[self._kept]


class Deeds(ABC):
    """What one agent may do, and what it says by that.

    Attributes:
        own: how many actions it chooses from, or how many numbers an action of it is (may be 0, if all were words).
        acts: whether there is anything to choose.
        message_bits: what it says by an action at most, in bits; 0 where its words were taken away.
    """

    own: int
    acts: bool
    message_bits: float

    @abstractmethod
    def action(self, padded: Any) -> Any:
        """The environment's action for one of the team's."""


class Choices(Deeds):
    """One of a few actions; the words vary slowest, and who lost them always says the first."""

    def __init__(self, agent: str, space: spaces.Discrete[Any], words: int | None, stripped: bool) -> None:
        total = int(space.n)
        if words is not None and total % words:
            raise ConfigError(f"env.message_actions: the {total} actions of {agent} cannot say {words} words")
        self.own = total // words if words is not None and stripped else total
        self.acts = self.own > 1
        self.message_bits = math.log2(words) if words is not None and not stripped else 0.0
        self._first = int(space.start)
        self._space: spaces.Discrete[Any] = spaces.Discrete(self.own)

    def action(self, padded: Any) -> int:
        # SuperSuit's rule: what is beyond an agent's own actions is its action 0. Policies never choose it.
        return self._first + int(supersuit.dehomogenize_actions(self._space, padded))


class Points(Deeds):
    """A point of a box; the words are its last numbers, and who lost them says what is nearest to zero.

    `low` and `high` are the agent's own box, flattened and without what it lost.
    """

    def __init__(self, agent: str, space: spaces.Box, words: int | None, stripped: bool) -> None:
        if not np.isfinite([space.low, space.high]).all():
            raise ConfigError(f"env.maker: the actions of {agent} have no bounds ({space}), wanted finite ones")
        low, high = space.low.flatten(), space.high.flatten()
        if words is not None and words > len(low):
            raise ConfigError(
                f"env.message_actions: the {len(low)} numbers of {agent}'s action cannot hold {words} words"
            )
        self.own = len(low) - words if words is not None and stripped else len(low)
        self.acts = self.own > 0
        self.message_bits = float(_BITS_OF_A_FLOAT * words) if words is not None and not stripped else 0.0
        self.low, self.high = low[: self.own], high[: self.own]
        self._rest, self._given = np.clip(0, low, high).astype(space.dtype)[self.own :], space
        self.shared = True

    def action(self, padded: Any) -> NDArray[Any]:
        chosen = padded[: self.own]
        if not self.shared:
            chosen = self.low + (chosen + 1) * 0.5 * (self.high - self.low)
        # In the environment's own type: the float32 that is nearest to a bound may lie beyond it.
        chosen = np.clip(chosen.astype(self._given.dtype), self.low, self.high)
        return np.concatenate([chosen, self._rest]).reshape(self._given.shape)


def deeds_of(agent: str, space: gym.Space[Any], words: int | None, stripped: bool) -> Deeds:
    """What an agent with this action space may do; raises `ConfigError` where that cannot be played."""
    if isinstance(space, spaces.Discrete):
        return Choices(agent, space, words, stripped)
    if isinstance(space, spaces.Box):
        return Points(agent, space, words, stripped)
    raise ConfigError(f"env.maker: the actions of {agent} are {space}, wanted a Discrete or a Box space")


@dataclass(frozen=True)
class TeamSpaces:
    """The spaces of all agents, made one."""

    sights: list[Sight]
    deeds: list[Deeds]

    def __post_init__(self) -> None:
        kinds = {type(deeds) for deeds in self.deeds}
        if len(kinds) > 1:
            raise ConfigError("env.maker: some agents choose from a few actions and others from a box, wanted one kind")
        if not any(deeds.acts for deeds in self.deeds):
            raise ConfigError("env.strip_comm: all that agents do is talk, and without that nobody has anything to do")
        if self.are_points:
            self._share_a_box()

    @property
    def are_points(self) -> bool:
        return isinstance(self.deeds[0], Points)

    @cached_property
    def observations(self) -> spaces.Box:
        padded = supersuit.homogenize_spaces([sight.space for sight in self.sights])
        assert isinstance(padded, spaces.Box)
        return padded

    def observe(self, slot: int, observation: Any) -> NDArray[np.float32]:
        """The padded vector [O] of what the agent of a slot observes."""
        padded: NDArray[np.float32] = supersuit.homogenize_observations(
            self.observations, self.sights[slot].vector(observation)
        )
        return padded

    @property
    def num_actions(self) -> int:
        return max(deeds.own for deeds in self.deeds)

    def _points(self) -> list[Points]:
        return [deeds for deeds in self.deeds if isinstance(deeds, Points)]

    def _share_a_box(self) -> None:
        """Agents keep their own units if those agree, else all act in units of half their own box.

        SuperSuit would take the union of the boxes, whose points lie outside of some agents' own.
        """
        shared = self._agreed() is not None
        for points in self._points():
            points.shared = shared

    def _agreed(self) -> Bounds | None:
        bounds: dict[int, tuple[float, float]] = {}
        for points in self._points():
            for index, pair in enumerate(zip(points.low.tolist(), points.high.tolist(), strict=True)):
                if bounds.setdefault(index, pair) != pair:
                    return None
        lows, highs = zip(*(bounds[index] for index in range(self.num_actions)), strict=True)
        return lows, highs

    @property
    def action_bounds(self) -> Bounds | None:
        """The box of all agents; None where actions are discrete."""
        if not self.are_points:
            return None
        return self._agreed() or ((-1.0,) * self.num_actions, (1.0,) * self.num_actions)
