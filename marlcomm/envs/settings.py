"""What every environment's settings offer (no torch here)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from marlcomm.registry import Settings


class EnvSettings(Settings):
    """Settings of a world.

    Attributes:
        card_settings: the settings that its card is measured for.
        horizon_key: the setting that is the number of steps of an episode, where there is one.
    """

    card_settings: ClassVar[tuple[dict[str, Any], ...]] = ({},)
    horizon_key: ClassVar[str] = "horizon"

    @property
    def told_horizon(self) -> int | None:
        """T, as far as the settings say it; None where only the world itself does (`TeamSpec.horizon`)."""
        told = getattr(self, self.horizon_key, None)
        return told if isinstance(told, int) else None

    @property
    def third_parties(self) -> tuple[str, ...]:
        """Top-level modules of others that make the world; a run keeps the versions of what they came with."""
        return ()

    def final(self) -> Self:
        """The same world at the end of any curriculum: evaluations are played there, whenever they are."""
        return self

    def silenced(self) -> Self:
        """The same world without words of its own, for a team that may not say anything."""
        return self
