"""Alphabets: which integers can stand in each symbol slot of a message."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["fixed", "signed", "raw"]


@dataclass(frozen=True)
class Alphabet:
    """The symbols of one message: S slots of one kind.

    Attributes:
        kind: ``fixed``: slot s holds 0 .. sizes[s] - 1. ``signed``: every slot holds -limit .. limit, small
            magnitudes being meant to be common. ``raw``: every slot holds a 32-bit pattern that no code shortens.
        sizes: how many values each slot can take.
    """

    kind: Kind
    sizes: tuple[int, ...]

    @staticmethod
    def fixed(sizes: list[int] | tuple[int, ...]) -> Alphabet:
        """Slots with `sizes[s]` values each."""
        if any(size < 1 for size in sizes):
            raise ValueError(f"an alphabet needs at least one value in every slot, got sizes {list(sizes)}")
        return Alphabet("fixed", tuple(sizes))

    @staticmethod
    def signed(slots: int, limit: int = 2**15 - 1) -> Alphabet:
        """Slots with integers of either sign, at most `limit` in magnitude."""
        return Alphabet("signed", (2 * limit + 1,) * slots)

    @staticmethod
    def raw(slots: int) -> Alphabet:
        """Slots with 32-bit patterns (float32 numbers as they are in memory)."""
        return Alphabet("raw", (2**32,) * slots)

    @property
    def slots(self) -> int:
        """S, the number of symbols in a message."""
        return len(self.sizes)

    @property
    def nominal_bits(self) -> float:
        """log2 of how many messages there are: what a code without statistics must spend."""
        return math.fsum(math.log2(size) for size in self.sizes)

    @property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Lowest and highest int32 value of each slot."""
        if self.kind == "fixed":
            return tuple((0, size - 1) for size in self.sizes)
        return tuple((-(size // 2), (size - 1) // 2) for size in self.sizes)
