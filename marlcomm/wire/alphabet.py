"""Alphabets: which integers can stand in each place of a message, and which places are on the wire."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.bits import Int, WireError
from marlcomm.wire.state import State, rebuilding

Kind = Literal["fixed", "signed", "raw"]
Symbols = NDArray[np.int32]
RAW_VALUES = 2**32
MOST_COLUMNS = 2**20
_SIGN_BIT = 2**31


@dataclass(frozen=True)
class Slot:
    """One place of a message.

    Attributes:
        column: where its symbol stands in a row of symbols [M, S].
        kind: ``fixed``: 0 .. size - 1. ``signed``: -(size // 2) .. size // 2, small magnitudes being meant to be
            common. ``raw``: a 32-bit pattern that no code shortens.
        size: how many values it can take.
        when: conditions (column, value, wanted) on symbols further left. The slot is on the wire only where
            (symbol == value) == wanted for each of them; elsewhere its column holds 0, or another slot.
    """

    column: int
    kind: Kind
    size: int
    when: tuple[tuple[int, int, bool], ...] = ()

    @property
    def bounds(self) -> tuple[int, int]:
        """Lowest and highest int32 value."""
        return (0, self.size - 1) if self.kind == "fixed" else (-(self.size // 2), (self.size - 1) // 2)

    def used(self, symbols: NDArray[np.integer]) -> NDArray[np.bool_]:
        """In which messages [M] of symbols [M, S] the slot is on the wire."""
        used = np.ones(len(symbols), bool)
        for column, value, wanted in self.when:
            used &= (symbols[:, column] == value) == wanted
        return used


@dataclass(frozen=True)
class Alphabet:
    """The symbols of one message: rows of S int32 columns, filled by slots from left to right.

    Attributes:
        slots: the places, each after those its conditions speak of.
    """

    slots: tuple[Slot, ...]

    @staticmethod
    def fixed(sizes: Sequence[int]) -> Alphabet:
        """Slots with `sizes[s]` values each."""
        if any(size < 1 for size in sizes):
            raise ValueError(f"an alphabet needs at least one value in every slot, got sizes {list(sizes)}")
        return Alphabet(tuple(Slot(column, "fixed", size) for column, size in enumerate(sizes)))

    @staticmethod
    def signed(slots: int, limit: int = 2**15 - 1) -> Alphabet:
        """Slots with integers of either sign, at most `limit` in magnitude."""
        return Alphabet(tuple(Slot(column, "signed", 2 * limit + 1) for column in range(slots)))

    @staticmethod
    def raw(slots: int) -> Alphabet:
        """Slots with 32-bit patterns (float32 numbers as they are in memory)."""
        return Alphabet(tuple(Slot(column, "raw", RAW_VALUES) for column in range(slots)))

    @staticmethod
    def choice(options: Sequence[Alphabet]) -> Alphabet:
        """A selector in the first column, then the symbols of the option that it names; unused columns hold 0."""
        slots = [Slot(0, "fixed", len(options))]
        for number, option in enumerate(options):
            for slot in option.slots:
                conditions = tuple((column + 1, value, wanted) for column, value, wanted in slot.when)
                slots.append(replace(slot, column=slot.column + 1, when=((0, number, True), *conditions)))
        return Alphabet(tuple(slots))

    @staticmethod
    def until_end(size: int, most: int) -> Alphabet:
        """At most `most` tokens 0 .. size - 1; 0 is the end mark, sent where a message is shorter than that."""
        return Alphabet(tuple(Slot(k, "fixed", size, when=((k - 1, 0, False),) if k else ()) for k in range(most)))

    @property
    def has_selector(self) -> bool:
        """Whether the first column names the option whose symbols follow, as `choice` makes it."""
        others = self.slots[1:]
        return bool(others) and all(slot.when and (slot.when[0][0], slot.when[0][2]) == (0, True) for slot in others)

    def state(self) -> State:
        """Plain JSON data that rebuilds the alphabet."""
        return {
            "slots": [[slot.column, slot.kind, slot.size, [list(term) for term in slot.when]] for slot in self.slots]
        }

    @staticmethod
    def from_state(state: State) -> Alphabet:
        """The alphabet that `state` describes; raises `WireError` where it describes none."""
        with rebuilding("an alphabet"):
            return Alphabet(tuple(_slot(*entry) for entry in state["slots"]))

    @cached_property
    def columns(self) -> int:
        """S, the length of a row of symbols."""
        return 1 + max((slot.column for slot in self.slots), default=-1)

    @cached_property
    def conditional(self) -> bool:
        """Whether some slots are not on the wire in every message."""
        return any(slot.when for slot in self.slots)

    @cached_property
    def has_raw(self) -> bool:
        return any(slot.kind == "raw" for slot in self.slots)

    @cached_property
    def groups(self) -> tuple[tuple[Slot, ...], ...]:
        """Runs of slots that are on the wire together."""
        return tuple(tuple(slots) for _, slots in groupby(self.slots, key=lambda slot: (slot.when, slot.kind)))

    @cached_property
    def bounds(self) -> tuple[tuple[int, int], ...]:
        """Lowest and highest int32 value of each column, whichever slot fills it."""
        found: dict[int, tuple[int, int]] = {}
        for slot in self.slots:
            low, high = slot.bounds
            known = found.get(slot.column, (0, 0) if slot.when else (low, high))
            found[slot.column] = min(known[0], low), max(known[1], high)
        return tuple(found.get(column, (0, 0)) for column in range(self.columns))

    def nominal_bits(self, symbols: Symbols) -> NDArray[np.float64]:
        """log2 of the values of the slots that are on the wire, summed [M]: the cost without statistics."""
        bits = np.zeros(len(symbols))
        for slots, used in self.walk(symbols):
            bits += used * math.fsum(math.log2(slot.size) for slot in slots)
        return bits

    def walk(self, symbols: NDArray[np.integer]) -> Iterator[tuple[tuple[Slot, ...], NDArray[np.bool_]]]:
        """Each group, and in which messages [M] it is on the wire."""
        for slots in self.groups:
            yield slots, slots[0].used(symbols)

    def check(self, symbols: NDArray[np.integer]) -> Int:
        """Symbols [M, S] as int64; raises `WireError` for what no sender can have sent."""
        values = np.asarray(symbols)
        if values.ndim != 2 or values.shape[1] != self.columns or values.dtype.kind not in "iu":
            raise WireError(
                f"symbols must be integers of shape [messages, {self.columns}], "
                f"got {values.dtype} of shape {list(values.shape)}"
            )
        wide: Int = values.astype(np.int64)
        if not self.conditional:
            low, high = np.array(self.bounds, np.int64).reshape(-1, 2).T
            _refuse((wide < low) | (wide > high), wide, self.bounds)
            return wide
        idle = np.ones(wide.shape, bool)
        for slot in self.slots:
            used, column = slot.used(wide), wide[:, slot.column]
            low_, high_ = slot.bounds
            outside = np.zeros(wide.shape, bool)
            outside[:, slot.column] = used & ((column < low_) | (column > high_))
            _refuse(outside, wide, [slot.bounds] * self.columns)
            idle[:, slot.column] &= ~used
        _refuse(idle & (wide != 0), wide, [(0, 0)] * self.columns)
        return wide


def _slot(column: int, kind: Kind, size: int, when: Sequence[tuple[int, int, bool]]) -> Slot:
    conditions = tuple((left, value, wanted) for left, value, wanted in when)
    numbers = [column, size, *(number for left, value, _ in conditions for number in (left, value))]
    if any(type(number) is not int for number in numbers) or any(type(wanted) is not bool for *_, wanted in conditions):
        raise TypeError(f"a slot of other things than numbers: {column}, {kind}, {size}, {when}")
    fits = (
        0 <= column < MOST_COLUMNS and 1 <= size <= RAW_VALUES and all(0 <= left < column for left, _, _ in conditions)
    )
    if kind not in get_args(Kind) or not fits:
        raise ValueError(f"no slot has column {column}, kind {kind!r}, size {size} and conditions {when}")
    return Slot(column, kind, size, conditions)


def _refuse(outside: NDArray[np.bool_], values: Int, bounds: Sequence[tuple[int, int]]) -> None:
    if outside.any():
        message, column = (int(place) for place in np.argwhere(outside)[0])
        low, high = bounds[column]
        raise WireError(
            f"symbol {values[message, column]} in slot {column} of message {message} is not in {low}..{high}"
        )


def to_offsets(slots: tuple[Slot, ...], symbols: Int) -> Int:
    """Numbers from 0, [M, G], of one group in symbols [M, S]: signed ones by zig-zag (0, -1, 1, -2 to 0, 1, 2, 3)."""
    values = symbols[:, [slot.column for slot in slots]]
    if slots[0].kind == "signed":
        return np.where(values >= 0, 2 * values, -2 * values - 1)
    return values & (RAW_VALUES - 1) if slots[0].kind == "raw" else values


def from_offsets(slots: tuple[Slot, ...], offsets: Int) -> Int:
    """The symbols [M, G] of numbers from 0; raises `WireError` for one that no symbol has."""
    if (offsets >= np.array([slot.size for slot in slots])).any():
        raise WireError("a decoded symbol is outside its alphabet")
    if slots[0].kind == "signed":
        return np.where(offsets % 2 == 0, offsets // 2, -(offsets + 1) // 2)
    return (offsets ^ _SIGN_BIT) - _SIGN_BIT if slots[0].kind == "raw" else offsets
