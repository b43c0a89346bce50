"""What an agent of a world may do: choose one of a few actions, or a point of a box."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from marlcomm import noise


class ActionSpace(ABC):
    """The actions of one agent; those of all worlds and agents are one tensor [B, N, *shape].

    Attributes:
        dtype: of that tensor.
    """

    dtype: ClassVar[torch.dtype]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one agent's action: () for the number of an action, (A,) for a point of a box."""

    def check(self, where: str, actions: Tensor, slots: tuple[int, int]) -> None:
        """Raise `ValueError`, beginning with `where`, unless `actions` are those of B worlds and N slots."""
        expected = (*slots, *self.shape)
        if tuple(actions.shape) != expected or actions.dtype != self.dtype:
            wanted = str(self.dtype).removeprefix("torch.")
            raise ValueError(
                f"{where}: actions must be {wanted} of shape {expected}, "
                f"got {actions.dtype} of shape {tuple(actions.shape)}"
            )
        self._check_values(where, actions)

    @abstractmethod
    def _check_values(self, where: str, actions: Tensor) -> None:
        """Raise `ValueError` where an action is none of these."""

    @abstractmethod
    def gather(self, actions: Mapping[str, Any]) -> Tensor:
        """The tensor [N, *shape] of what agents chose, name -> a number, or an array of them."""

    @abstractmethod
    def random(self, uniforms: Tensor) -> Tensor:
        """Actions [..., *shape], all alike, from uniform draws [..., *shape] in (0, 1)."""

    @abstractmethod
    def space(self) -> gym.spaces.Space[Any]:
        """One agent's space, as Gymnasium has it."""


@dataclass(frozen=True)
class DiscreteActions(ActionSpace):
    """One of `count` actions, by its number from 0: [B, N] int64."""

    count: int
    dtype = torch.int64

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def _check_values(self, where: str, actions: Tensor) -> None:
        lowest, highest = torch.aminmax(actions)
        if lowest < 0 or highest >= self.count:
            wrong = int(lowest if lowest < 0 else highest)
            raise ValueError(f"{where}: action {wrong} is not in 0..{self.count - 1}")

    def gather(self, actions: Mapping[str, Any]) -> Tensor:
        return torch.tensor([int(action) for action in actions.values()])

    def random(self, uniforms: Tensor) -> Tensor:
        return noise.choice(uniforms, self.count)

    def space(self) -> gym.spaces.Space[Any]:
        return gym.spaces.Discrete(self.count)


@dataclass(frozen=True)
class BoxActions(ActionSpace):
    """Vectors between `low` and `high`, A numbers each: [B, N, A] float32.

    Raises:
        ValueError: they differ in length, or are not finite and rising in float32.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype = torch.float32

    def __post_init__(self) -> None:
        low, high = (torch.tensor(bound, dtype=self.dtype, device="cpu") for bound in (self.low, self.high))
        if low.shape != high.shape or not (low.isfinite() & high.isfinite() & (low < high)).all():
            raise ValueError(
                f"a box of actions goes from finite numbers to higher ones, got {self.low} and {self.high}"
            )

    @staticmethod
    def of(size: int, low: float | Sequence[float], high: float | Sequence[float]) -> BoxActions:
        """The box of vectors of `size` numbers; a bound that is one number holds for all of them."""
        bounds = [(bound,) * size if isinstance(bound, (int, float)) else tuple(bound) for bound in (low, high)]
        if any(len(bound) != size for bound in bounds):
            raise ValueError(
                f"a bound is one number, or {size}, one for each number of an action; got {low} and {high}"
            )
        return BoxActions(*bounds)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.low),)

    def point(self, units: Tensor) -> Tensor:
        """Points [..., A] of the box: in `units` it goes from -1 to 1, and what lies outside is clipped."""
        low, high = self._bounds(units)
        return torch.clamp(low + (units + 1) * 0.5 * (high - low), low, high)

    def units(self, point: Tensor) -> Tensor:
        """What `point` maps to these points [..., A] of the box."""
        low, high = self._bounds(point)
        return 2 * (point - low) / (high - low) - 1

    def nearest(self, point: Tensor) -> Tensor:
        """The points [..., A] of the box nearest to others."""
        return torch.clamp(point, *self._bounds(point))

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.low), like.new_tensor(self.high)

    def _check_values(self, where: str, actions: Tensor) -> None:
        low, high = self._bounds(actions)
        outside = ~((actions >= low) & (actions <= high))  # NaN too
        if outside.any():
            world, slot, number = outside.nonzero()[0].tolist()
            raise ValueError(
                f"{where}: action {float(actions[world, slot, number]):g} (number {number} of slot {slot} in world "
                f"{world}) is not in [{self.low[number]:g}, {self.high[number]:g}]"
            )

    def gather(self, actions: Mapping[str, Any]) -> Tensor:
        rows = {name: np.asarray(action, np.float32) for name, action in actions.items()}
        for name, row in rows.items():
            if row.shape != self.shape:
                raise ValueError(f"step: the action of {name} must be of shape {self.shape}, got {row.shape}")
        return torch.from_numpy(np.stack(list(rows.values())))

    def random(self, uniforms: Tensor) -> Tensor:
        return self.point(2 * uniforms - 1)

    def space(self) -> gym.spaces.Space[Any]:
        return gym.spaces.Box(np.asarray(self.low, np.float32), np.asarray(self.high, np.float32))
