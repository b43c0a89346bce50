"""Settings of Particle Spread; the defaults are those of mpe2's simple_spread_v3."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from marlcomm.envs.settings import EnvSettings

# Settings that only one view reads.
_OF_VIEWS: dict[str, tuple[str, ...]] = {"nearest": ("nearest_agents", "nearest_landmarks"), "radius": ("radius",)}


class ParticleSpreadSettings(EnvSettings):
    """Discs with inertia cover as many landmarks without bumping into each other."""

    card_settings = (
        {},
        {"agents": 5},
        {"actions": "continuous"},
        {"view": "nearest"},
        {"view": "radius"},
        {"view": "other_landmark"},
        {"view": "other_landmark", "landmarks": "anywhere"},
        {"view": "other_landmark", "agents": 2},
        {"view": "other_landmark", "agents": 5},
        {"view": "other_landmark", "agents": 10},
    )

    agents: int = Field(3, ge=2, le=10, description="N, agents and landmarks")
    actions: Literal["discrete", "continuous"] = Field(
        "discrete",
        description="discrete: stay, or push in one of four directions; continuous: five numbers from 0 to 1, how "
        "hard to push in each (the first does nothing), as in mpe2",
    )
    horizon: int = Field(25, ge=1, le=1000, description="steps of an episode")
    local_ratio: float = Field(
        0.5, ge=0, le=1, description="weight of an agent's own collisions; distances weigh 1 - local_ratio"
    )
    view: Literal["full", "nearest", "radius", "other_landmark"] = Field(
        "full",
        description="full: everything; nearest: the nearest few; radius: what is near, in fixed slots with visibility "
        "bits; other_landmark: nobody but oneself, and one landmark that is scored by another agent",
    )
    landmarks: Literal["anywhere", "rim"] | None = Field(
        None,
        description="where landmarks are drawn: anywhere in the square, or on its rim, where waiting in the middle is "
        "worth little; null: rim in view other_landmark, else anywhere",
    )
    nearest_agents: int | None = Field(
        1, ge=1, le=9, description="view nearest: how many other agents are seen; null: all, by their slots"
    )
    nearest_landmarks: int | None = Field(
        1, ge=1, le=10, description="view nearest: how many landmarks are seen; null: all, by their numbers"
    )
    radius: float = Field(0.5, gt=0, le=10, description="view radius: how far an agent sees")

    @model_validator(mode="after")
    def _view_reads_them(self) -> Self:
        for view, names in _OF_VIEWS.items():
            for name in names:
                default = type(self).model_fields[name].default
                if getattr(self, name) != default and view != self.view:
                    raise ValueError(
                        f"{name}: got {getattr(self, name)!r}, but view {self.view!r} does not read it: "
                        f"set view to {view!r}, or leave {name} at {default!r}"
                    )
        return self

    @property
    def on_rim(self) -> bool:
        """Whether landmarks are drawn on the rim of the square."""
        return self.landmarks == "rim" if self.landmarks is not None else self.view == "other_landmark"

    @property
    def setting(self) -> str:
        """What makes scores comparable, in a word."""
        words = [self.view, f"{self.agents}agents"]
        words += [f"{name.replace('_', '-')}{getattr(self, name) or 'all'}" for name in _OF_VIEWS.get(self.view, ())]
        words += ["rim"] if self.on_rim else []
        words += ["continuous"] if self.actions == "continuous" else []
        words.append(f"horizon{self.horizon}")
        if self.local_ratio != 0.5:
            words.append(f"local{self.local_ratio}")
        return "-".join(words)
