"""Settings of GhostRun: crossed screens, and the published drones of `mode: legacy`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from marlcomm.envs.settings import EnvSettings


@dataclass(frozen=True)
class Preset:
    """What a mode stands for: sizes in cells, steps in cells per move; trees and ghosts are those of one field."""

    drones: int
    size: int
    view: int
    trees: int
    ghosts: int
    horizon: int
    drone_step: int
    ghost_step: int

    @property
    def window(self) -> int:
        """Cells along a side of a picture."""
        return 2 * self.view - 1


MODES = {
    "crossed": Preset(drones=5, size=15, view=4, trees=6, ghosts=4, horizon=25, drone_step=2, ghost_step=1),
    "legacy": Preset(drones=5, size=50, view=10, trees=20, ghosts=100, horizon=25, drone_step=5, ghost_step=5),
}
# Trees and ghosts of maps unlike those of training.
_UNLIKE = {"crossed": (2, 8), "legacy": (5, 50)}
_MAPS = {"crossed": "fresh", "legacy": "train"}
_SCREENS = {"crossed": "next", "legacy": "own"}
# Published: one of these is trained on at a time.
_TRAINED = ((20, 100), (100, 20), (20, 20), (100, 100))


class GhostRunSettings(EnvSettings):
    """Drones flee from ghosts that come into view."""

    card_settings = (
        {},
        *({"drones": drones} for drones in (2, 10)),
        {"map": "train"},
        {"map": "ood"},
        {"screen": "own"},
        *({"mode": "legacy", "trees": trees, "ghosts": ghosts} for trees, ghosts in _TRAINED),
        {"mode": "legacy", "drones": 10},
        {"mode": "legacy", "map": "fresh"},
        {"mode": "legacy", "map": "ood"},
    )

    mode: Literal["crossed", "legacy"] = Field(
        "crossed",
        description="crossed: a field for each drone, which another pilot sees; legacy: the published drones, all "
        "over one map, which need no talk",
    )
    map: Literal["train", "fresh", "ood"] | None = Field(
        None,
        description="train: walls and trees are the same in all episodes; fresh: new ones in each; ood: new ones, and "
        "trees and ghosts in other numbers (crossed 2 and 8, legacy 5 and 50, whatever is set here); null: fresh in "
        "crossed, train in legacy",
    )
    layout: int = Field(0, ge=0, lt=2**31, description="map train: the number of the map, one for each number")
    screen: Literal["next", "own"] | None = Field(
        None,
        description="what a pilot sees: the field of the next drone in the ring of all, or its own; null: next in "
        "crossed, own in legacy",
    )
    observations: Literal["indices", "dense"] = Field(
        "indices", description="indices: what is in each cell of the picture; dense: its colours, as published"
    )
    drones: int | None = Field(None, ge=1, le=100, description="agents (N); null: 5")
    size: int | None = Field(None, ge=5, le=60, description="cells along a side of a field; null: 15, legacy 50")
    view: int | None = Field(None, ge=1, le=20, description="radius of what a drone sees; null: 4, legacy 10")
    trees: int | None = Field(None, ge=0, description="trees on a field; null: 6, legacy 20")
    ghosts: int | None = Field(None, ge=1, le=1000, description="ghosts on a field; null: 4, legacy 100")
    horizon: int | None = Field(None, ge=1, le=1000, description="steps of an episode; null: 25")
    drone_step: int | None = Field(None, ge=1, le=20, description="cells of a drone's move; null: 2, legacy 5")
    ghost_step: int | None = Field(None, ge=1, le=20, description="cells of a ghost's move; null: 1, legacy 5")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        preset = self.preset
        if self.legacy:
            self._fits_one_map()
        elif preset.window > preset.size:
            raise ValueError(
                f"view: got {preset.view}, but what a drone sees is 2 view - 1 = {preset.window} cells wide and lies "
                f"in the field, which has {preset.size} (nearest: {(preset.size + 1) // 2})"
            )
        if self.layout and self.on_map != "train":
            raise ValueError(
                f"layout: got {self.layout}, but map {self.on_map!r} does not read it: set map to 'train', or leave "
                "layout at 0"
            )
        if self.shows_next and preset.drones < 2:
            raise ValueError(
                f"drones: got {preset.drones}, wanted at least 2: a pilot sees the field of another one (nearest: 2; "
                "or set screen to 'own')"
            )
        most = preset.size**2 // 4
        if preset.trees > most:
            raise ValueError(
                f"trees: got {preset.trees}, wanted at most {most}, a quarter of {preset.size} x {preset.size} cells "
                f"(nearest: {most})"
            )
        return self

    def _fits_one_map(self) -> None:
        if self.shows_next:
            raise ValueError("screen: got 'next', wanted 'own' in mode 'legacy' (or set mode to 'crossed')")

    @property
    def legacy(self) -> bool:
        return self.mode == "legacy"

    @property
    def on_map(self) -> str:
        """Which maps are played: train, fresh or ood."""
        return self.map or _MAPS[self.mode]

    @property
    def shows_next(self) -> bool:
        """Whether pilots see another one's field."""
        return (self.screen or _SCREENS[self.mode]) == "next"

    @property
    def solved_alone(self) -> bool:
        """Whether each pilot sees all that it needs."""
        return not self.legacy and not self.shows_next

    @property
    def fields(self) -> int:
        """F, how many fields a world has."""
        return 1 if self.legacy else self.preset.drones

    @property
    def preset(self) -> Preset:
        """The mode, with what was set by hand, and the trees and ghosts of the map."""
        chosen: dict[str, Any] = {name: getattr(self, name) for name in Preset.__dataclass_fields__}
        if self.on_map == "ood":
            chosen["trees"], chosen["ghosts"] = _UNLIKE[self.mode]
        default = vars(MODES[self.mode])
        return Preset(**{name: default[name] if value is None else value for name, value in chosen.items()})

    @property
    def setting(self) -> str:
        """What makes scores comparable, in a word."""
        preset, default = self.preset, MODES[self.mode]
        words = [self.mode, f"{preset.drones}drones", f"{preset.trees}trees", f"{preset.ghosts}ghosts", self.on_map]
        if self.on_map == "train" and self.layout:
            words[-1] += str(self.layout)
        words += ["own-screen"] if self.solved_alone else []
        for name in ("size", "view", "horizon", "drone_step", "ghost_step"):
            if getattr(preset, name) != getattr(default, name):
                words.append(f"{name.replace('_', '-')}{getattr(preset, name)}")
        return "-".join(words)
