"""Settings of Predator-Prey, with the published values as defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from marlcomm.envs.settings import EnvSettings


@dataclass(frozen=True)
class Preset:
    """What a difficulty stands for."""

    size: int
    predators: int
    vision: int
    horizon: int


PRESETS = {
    "easy": Preset(size=5, predators=3, vision=0, horizon=20),
    "medium": Preset(size=10, predators=5, vision=1, horizon=40),
    "hard": Preset(size=20, predators=10, vision=1, horizon=80),
}
_NAMES = {(preset.size, preset.predators, preset.horizon): name for name, preset in PRESETS.items()}


class PredatorPreySettings(EnvSettings):
    """Predators that see only the cells around them must all find one prey."""

    card_settings = (
        *({"difficulty": difficulty} for difficulty in PRESETS),
        {"difficulty": "medium", "vision": 0},
        *({"difficulty": difficulty, "moving_prey": True} for difficulty in PRESETS),
        *({"difficulty": difficulty, "rewards": "cooperative"} for difficulty in PRESETS),
        *({"difficulty": difficulty, "rewards": "competitive"} for difficulty in PRESETS),
    )

    difficulty: Literal["easy", "medium", "hard"] = Field(
        "easy", description="easy: 3 predators on 5 x 5; medium: 5 on 10 x 10; hard: 10 on 20 x 20"
    )
    rewards: Literal["mixed", "cooperative", "competitive"] = Field(
        "mixed", description="what predators on the prey earn: nothing, and it ends; 0.05 x their number; 0.05 / it"
    )
    observations: Literal["indices", "dense"] = Field(
        "indices", description="indices: numbers of the cells in view, and who is there; dense: the published one-hots"
    )
    moving_prey: bool = Field(
        False, description="a prey that nobody has caught goes one step at random, or stays (not in the published code)"
    )
    stay: bool = Field(True, description="predators may stay where they are")
    size: int | None = Field(None, ge=2, le=64, description="cells along a side; null: 5, 10 and 20 by difficulty")
    predators: int | None = Field(None, ge=1, description="agents (N); null: 3, 5 and 10 by difficulty")
    vision: int | None = Field(
        None, ge=0, le=3, description="cells that a predator sees in every direction; null: 0, 1 and 1 by difficulty"
    )
    horizon: int | None = Field(
        None, ge=1, le=1000, description="steps of an episode; null: 20, 40 and 80 by difficulty"
    )

    @model_validator(mode="after")
    def _fits_the_grid(self) -> Self:
        most = self.grid.size**2 - 1
        if self.grid.predators > most:
            raise ValueError(
                f"predators: got {self.grid.predators}, wanted at most {most}: all start in cells of their own, the "
                f"prey too, and there are {self.grid.size} x {self.grid.size} (nearest: {most})"
            )
        return self

    @property
    def grid(self) -> Preset:
        """The difficulty, with what was set by hand."""
        preset = PRESETS[self.difficulty]
        return Preset(
            size=preset.size if self.size is None else self.size,
            predators=preset.predators if self.predators is None else self.predators,
            vision=preset.vision if self.vision is None else self.vision,
            horizon=preset.horizon if self.horizon is None else self.horizon,
        )

    @property
    def setting(self) -> str:
        """What makes scores comparable, in a word."""
        grid = self.grid
        sizes = f"{grid.size}x{grid.size}-{grid.predators}predators-horizon{grid.horizon}"
        name = _NAMES.get((grid.size, grid.predators, grid.horizon), sizes)
        extras = ["moving"] * self.moving_prey + ["nostay"] * (not self.stay)
        return "-".join([name, f"vision{grid.vision}", self.rewards, *extras])
