"""Codes without statistics: how the slots of one group are written as bits, and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Slot
from marlcomm.wire.bits import BitReader, Int, WireError
from marlcomm.wire.state import State


class GroupCode(ABC):
    """How the slots of one group are written. Symbols come as offsets [M, G] from 0 (see `to_offsets`)."""

    name: ClassVar[str]

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.slots = slots

    @classmethod
    def fit(cls, slots: tuple[Slot, ...], offsets: Int) -> Self:
        """The code for slots whose symbols are like offsets [M, G]; where a code has no statistics, itself."""
        return cls(slots)

    def state(self) -> State:
        """Plain JSON data that, with the slots, rebuilds the code."""
        return {"code": self.name}

    @classmethod
    def from_state(cls, slots: tuple[Slot, ...], state: State) -> Self:
        """The code that `state` describes; raises for a state that is not of these slots."""
        return cls(slots)

    @abstractmethod
    def lengths(self, offsets: Int) -> Int:
        """Bits of each message's group, [M]."""

    @abstractmethod
    def fields(self, offsets: Int) -> tuple[Int, Int]:
        """Values and widths of bit fields, both [M, F]."""

    @abstractmethod
    def read(self, reader: BitReader) -> Int:
        """Offsets [M, G] from a reader."""


class FixedLengthCode(GroupCode):
    """ceil(log2 A) bits for a slot of A values."""

    name = "fixed"

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        super().__init__(slots)
        self.widths = np.array([(slot.size - 1).bit_length() for slot in slots], np.int64)

    def lengths(self, offsets: Int) -> Int:
        return np.full(len(offsets), self.widths.sum())

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        return offsets, np.broadcast_to(self.widths, offsets.shape)

    def read(self, reader: BitReader) -> Int:
        return np.stack([reader.take(int(width)) for width in self.widths], axis=1)


class MixedRadixCode(GroupCode):
    """A group as one number in mixed radix: ceil(log2 of the product of all A) bits."""

    name = "mixed-radix"
    _CHUNK = 32

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        super().__init__(slots)
        messages = 1
        for slot in slots:
            messages *= slot.size
        self._bits = (messages - 1).bit_length()
        chunks = -(-self._bits // self._CHUNK)
        self._widths = np.array(
            [self._bits - self._CHUNK * (chunks - 1), *[self._CHUNK] * (chunks - 1)][:chunks], np.int64
        )
        # Beyond 62 bits numpy's integers overflow; Python's do not.
        self._dtype: type = np.int64 if self._bits <= 62 else object

    def lengths(self, offsets: Int) -> Int:
        return np.full(len(offsets), self._bits)

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        number: NDArray[Any] = np.zeros(len(offsets), self._dtype)
        for slot, column in zip(self.slots, offsets.T, strict=True):
            number = number * slot.size + column
        shifts = np.cumsum(self._widths[::-1])[::-1] - self._widths
        chunks = [
            (number >> int(shift)) & ((1 << int(width)) - 1) for shift, width in zip(shifts, self._widths, strict=True)
        ]
        values = np.stack(chunks, axis=1).astype(np.int64) if chunks else np.zeros((len(offsets), 0), np.int64)
        return values, np.broadcast_to(self._widths, values.shape)

    def read(self, reader: BitReader) -> Int:
        number: NDArray[Any] = np.zeros(len(reader), np.int64).astype(self._dtype)
        for width in self._widths:
            number = (number << int(width)) + reader.take(int(width))
        columns = []
        for slot in reversed(self.slots):
            columns.append((number % slot.size).astype(np.int64))
            number = number // slot.size
        if (number != 0).any():
            raise WireError("a decoded message is outside its alphabet")
        return np.stack(columns[::-1], axis=1)


class EliasGammaCode(GroupCode):
    """2 floor(log2 n) + 1 bits for offset n - 1: short for small offsets, and no bound on large ones (Elias 1975)."""

    name = "elias-gamma"

    def lengths(self, offsets: Int) -> Int:
        return np.asarray((2 * magnitudes(offsets) + 1).sum(axis=1))

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        zeros = magnitudes(offsets)
        return side_by_side((np.zeros_like(offsets), zeros), (offsets + 1, zeros + 1))

    def read(self, reader: BitReader) -> Int:
        return columns([_read_gamma(reader) for _ in self.slots], reader)


class EliasDeltaCode(GroupCode):
    """floor(log2 n) + 2 floor(log2(floor(log2 n) + 1)) + 1 bits for offset n - 1 (Elias 1975).

    The width of n in Elias-gamma, then n without its leading one: longer than gamma for n of 2, 3 and 8 to 15,
    shorter from 32 on.
    """

    name = "elias-delta"

    def lengths(self, offsets: Int) -> Int:
        below = magnitudes(offsets)
        return np.asarray((below + 2 * magnitudes(below) + 1).sum(axis=1))

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        below = magnitudes(offsets)
        zeros = magnitudes(below)
        number = offsets + 1 - (np.int64(1) << below)
        return side_by_side((np.zeros_like(offsets), zeros), (below + 1, zeros + 1), (number, below))

    def read(self, reader: BitReader) -> Int:
        return columns([self._read_one(reader) for _ in self.slots], reader)

    @staticmethod
    def _read_one(reader: BitReader) -> Int:
        below = _read_gamma(reader)
        if (below > LARGEST_MAGNITUDE).any():
            raise reader.error(below > LARGEST_MAGNITUDE, "holds a number that is too large")
        return (np.int64(1) << below) + reader.take(below) - 1


LARGEST_MAGNITUDE = 32  # of any number from 1 to 2**32


def magnitudes(offsets: Int) -> Int:
    """floor(log2(offset + 1))."""
    # frexp is exact here: offsets stay far below 2**53.
    return np.frexp((offsets + 1).astype(np.float64))[1].astype(np.int64) - 1


def side_by_side(*parts: tuple[Int, Int]) -> tuple[Int, Int]:
    """Fields [M, G * P] of P parts, each of values and widths [M, G]: all parts of a slot before the next slot."""
    messages, slots = parts[0][0].shape
    values, widths = (
        np.stack(side, axis=-1).reshape(messages, slots * len(parts)) for side in zip(*parts, strict=True)
    )
    return values, widths


def columns(numbers: list[Int], reader: BitReader) -> Int:
    """Numbers [M] of each slot as [M, G], also where there are none."""
    return np.stack(numbers, axis=1) if numbers else np.zeros((len(reader), 0), np.int64)


def _read_gamma(reader: BitReader) -> Int:
    zeros = reader.zeros()
    if (zeros > LARGEST_MAGNITUDE).any():
        raise reader.error(zeros > LARGEST_MAGNITUDE, "ends too early or holds a number that is too large")
    reader.take(zeros)
    return reader.take(zeros + 1) - 1
