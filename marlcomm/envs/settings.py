"""What every environment's settings offer (no torch here)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from marlcomm.registry import Settings


class EnvSettings(Settings):
    """Settings of a world.

    Attributes:
        card_settings: the settings that its card is measured for.
    """

    card_settings: ClassVar[tuple[dict[str, Any], ...]] = ({},)

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
