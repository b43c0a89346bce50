"""Settings of Traffic Junction, with the published values as defaults."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from marlcomm.envs.settings import EnvSettings
from marlcomm.registry import Settings

CARS = {"easy": 5, "medium": 10, "hard": 20}
HORIZONS = {"easy": 20, "medium": 40, "hard": 80}
FIRST_RATES = {"easy": 0.1, "medium": 0.05, "hard": 0.02}
FINAL_RATES = {"easy": 0.3, "medium": 0.2, "hard": 0.05}


class Curriculum(Settings):
    """The published schedule of the arrival rate: constant, then rising in steps of 0.01, then constant."""

    first_rate: float | None = Field(
        None, ge=0, le=1, description="arrival rate before the rise; null: 0.1, 0.05 and 0.02 by difficulty"
    )
    start_epoch: int = Field(250, ge=0, description="epoch at which the rate begins to rise")
    end_epoch: int = Field(1250, ge=1, description="epoch from which the rate is the final one")
    rounds_per_epoch: int = Field(
        10, ge=1, description="episodes of a world in an epoch; by default training plays one a round"
    )

    @model_validator(mode="after")
    def _rises(self) -> Curriculum:
        if self.end_epoch <= self.start_epoch:
            raise ValueError(f"end_epoch {self.end_epoch} must be greater than start_epoch {self.start_epoch}")
        return self


class TrafficJunctionSettings(EnvSettings):
    """Cars cross junctions without crashing; each sees its own cell (vision 0) or the cells around it."""

    card_settings = tuple(
        {"difficulty": difficulty, **setting}
        for difficulty in CARS
        for setting in (
            {"add_rate": FIRST_RATES[difficulty]},
            {"add_rate": FINAL_RATES[difficulty]},
            {"add_rate": FINAL_RATES[difficulty], "clock": True},
        )
    )

    difficulty: Literal["easy", "medium", "hard"] = Field(
        "easy", description="easy: one crossing of two lanes; medium: one of two roads; hard: four of four roads"
    )
    vision: int = Field(0, ge=0, le=3, description="how many cells a car sees in every direction")
    add_rate: float | None = Field(
        None, ge=0, le=1, description="chance of a new car per entry and step; null: 0.3, 0.2 and 0.05 by difficulty"
    )
    curriculum: Curriculum | None = Field(None, description="raise the arrival rate over training; null: constant")
    clock: bool = Field(False, description="cars also see how much of the episode is over, t / horizon")
    legacy: bool = Field(
        False, description="as published: slots keep the memory of the last car, and easy's curriculum ends at 0.29"
    )

    @model_validator(mode="after")
    def _curriculum_rises(self) -> TrafficJunctionSettings:
        if self.curriculum is not None and self.first_rate >= self.final_rate:
            raise ValueError(
                f"a curriculum must rise, but curriculum.first_rate is {self.first_rate:g} and add_rate, "
                f"where it ends, {self.final_rate:g} (env.curriculum=null plays that rate from the start)"
            )
        return self

    def final(self) -> Self:
        if self.curriculum is None:
            return self
        last = self.rate(self.curriculum.end_epoch * self.curriculum.rounds_per_epoch)
        return self.model_copy(update={"curriculum": None, "add_rate": last})

    @property
    def first_rate(self) -> float:
        """The arrival rate before a curriculum rises."""
        chosen = None if self.curriculum is None else self.curriculum.first_rate
        return FIRST_RATES[self.difficulty] if chosen is None else chosen

    @property
    def final_rate(self) -> float:
        return FINAL_RATES[self.difficulty] if self.add_rate is None else self.add_rate

    def rate(self, episode: int) -> float:
        """The arrival rate of a world's episode; training plays them in order."""
        if self.curriculum is None:
            return self.final_rate
        plan, first = self.curriculum, self.first_rate
        steps = min(max(episode // plan.rounds_per_epoch - plan.start_epoch + 1, 0), plan.end_epoch - plan.start_epoch)
        if steps == 0:
            return first
        if steps == plan.end_epoch - plan.start_epoch and not self.legacy:
            return self.final_rate
        increment = (self.final_rate - first) / (plan.end_epoch - plan.start_epoch)
        if self.legacy:
            exact = first
            for _ in range(steps):
                exact += increment
            return 0.01 * (exact // 0.01)
        # Published code floors a float that has lost a hair: easy ends at 0.29. Rounding first mends that.
        return max(first, math.floor(round((first + steps * increment) * 100, 6)) / 100)
