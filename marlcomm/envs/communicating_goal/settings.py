"""Settings of Communicating Goal, with the published goals and weights as defaults."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from marlcomm.envs.settings import EnvSettings

Cell = tuple[int, int]
_Whole = Annotated[int, Field(strict=True)]
_Positive = Annotated[float, Field(strict=True, gt=0)]

GOALS: tuple[Cell, ...] = ((0, 0), (7, 7), (3, 4), (4, 3), (1, 6), (6, 1))
WEIGHTS = (200.0, 100.0, 50.0, 25.0, 12.0, 1.0)


class CommunicatingGoalSettings(EnvSettings):
    """A speaker sees the goal, a listener walks: some goals are drawn far more often than others."""

    card_settings = ({"horizon": 14}, {"horizon": 50})

    size: int = Field(8, ge=2, le=32, description="cells along a side of the square grid")
    horizon: int = Field(
        14, ge=1, le=1000, description="steps of an episode (published: 50, in which silence finds every goal)"
    )
    goals: tuple[tuple[_Whole, _Whole], ...] = Field(
        GOALS, min_length=1, max_length=8, description="the cells [x, y] that may be the goal"
    )
    weights: tuple[_Positive, ...] = Field(WEIGHTS, description="how often each of them is drawn, in any unit")
    encoding: Literal["one_hot", "coordinates"] = Field(
        "one_hot", description="one_hot: a one-hot column and a one-hot row; coordinates: x and y over size - 1"
    )

    @model_validator(mode="after")
    def _goals_fit(self) -> Self:
        last = self.size - 1
        for index, (x, y) in enumerate(self.goals):
            if not (0 <= x <= last and 0 <= y <= last):
                nearest = [min(max(x, 0), last), min(max(y, 0), last)]
                raise ValueError(f"goals.{index}: got [{x}, {y}], wanted x and y in 0..{last} (nearest: {nearest})")
            if (x, y) in self.goals[:index]:
                raise ValueError(f"goals.{index}: [{x}, {y}] is among the goals already")
        if len(self.weights) != len(self.goals):
            raise ValueError(
                f"weights: got {len(self.weights)} of them, wanted one for each of {len(self.goals)} goals"
            )
        return self

    @property
    def chances(self) -> tuple[float, ...]:
        """The probability of each goal."""
        total = sum(self.weights)
        return tuple(weight / total for weight in self.weights)

    @property
    def setting(self) -> str:
        """What makes scores comparable, in a word; goals of one's own are told apart by a digest."""
        name = f"{self.size}x{self.size}-horizon{self.horizon}"
        if self.goals == GOALS and self.chances == CommunicatingGoalSettings().chances:
            return name
        listed = repr(sorted(zip(self.goals, self.chances, strict=True))).encode()
        return f"{name}-{len(self.goals)}goals-{hashlib.blake2b(listed, digest_size=3).hexdigest()}"
