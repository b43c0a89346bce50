"""Prefix codes: symbols to bits and back, each message on its own, with lengths known exactly beforehand.

Whoever knows the alphabet and the code reads a message without being told where it ends. A `Code` writes one group of
slots after the other, each by a `GroupCode`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet, Slot, Symbols, from_offsets, to_offsets
from marlcomm.wire.bits import BitReader, Int, Packets, WireError, write_fields

_WORD = np.dtype(">u4")


class GroupCode(ABC):
    """How the slots of one group are written. Symbols come as offsets [M, G] from 0 (see `Slot.offsets`)."""

    name: ClassVar[str]

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        self.slots = slots

    @abstractmethod
    def lengths(self, offsets: Int) -> Int:
        """Bits of each message's group, [M]."""

    @abstractmethod
    def fields(self, offsets: Int) -> tuple[Int, Int]:
        """Values and widths of bit fields, both [M, F]."""

    @abstractmethod
    def read(self, reader: BitReader) -> Int:
        """Offsets [M, G] from a reader."""


class Code:
    """A prefix code for the messages of one alphabet. Symbols are [M, S] integers.

    Args:
        alphabet: of the messages.
        choose: the code of a group of slots; the one without statistics that is shortest for its kind if None.
    """

    def __init__(self, alphabet: Alphabet, choose: Callable[[tuple[Slot, ...]], GroupCode] | None = None) -> None:
        self.alphabet = alphabet
        self.parts = [(choose or default_group)(slots) for slots in alphabet.groups]
        self._plain = bool(self.parts) and all(_is_whole_words(part) for part in self.parts)

    def lengths(self, symbols: Symbols) -> Int:
        """Bits of each message, [M]; raises `WireError` for a symbol outside the alphabet."""
        values = self.alphabet.check(symbols)
        bits = np.zeros(len(values), np.int64)
        for part in self.parts:
            rows = _rows(part.slots, values)
            bits[rows] += part.lengths(to_offsets(part.slots, values[rows]))
        return bits

    def encode(self, symbols: Symbols) -> Packets:
        """The bytes of messages; raises `WireError` for a symbol outside the alphabet."""
        values = self.alphabet.check(symbols)
        if self._plain:  # whole words need no bit by bit
            sizes = np.full(len(values), _WORD.itemsize * self.alphabet.columns)
            return Packets(to_offsets(self.alphabet.slots, values).astype(_WORD).tobytes(), sizes, 8 * sizes)
        fields, widths = [np.zeros((len(values), 0), np.int64)], [np.zeros((len(values), 0), np.int64)]
        for part in self.parts:
            rows = _rows(part.slots, values)
            for side, found in zip((fields, widths), part.fields(to_offsets(part.slots, values[rows])), strict=True):
                side.append(_spread(found, rows, len(values)))
        return write_fields(np.concatenate(fields, axis=1), np.concatenate(widths, axis=1))

    def decode(self, packets: Packets) -> Symbols:
        """The symbols [M, S] of packets; raises `WireError` for bytes that no sender can have sent."""
        if self._plain:
            return self._decode_plain(packets)
        reader = BitReader(packets)
        values = np.zeros((len(reader), self.alphabet.columns), np.int64)
        for part in self.parts:
            rows = part.slots[0].used(values)
            if part.slots[0].when and not rows.any():
                continue
            with reader.only(rows) as some:
                found = from_offsets(part.slots, part.read(some))
            for slot, column in zip(part.slots, found.T, strict=True):
                values[rows, slot.column] = column
        reader.finish()
        return values.astype(np.int32)

    def _decode_plain(self, packets: Packets) -> Symbols:
        size = _WORD.itemsize * self.alphabet.columns
        if (packets.sizes != size).any() or len(packets.data) != size * len(packets):
            raise WireError(f"wanted {len(packets)} messages of {size} bytes, got {len(packets.data)} bytes")
        words = np.frombuffer(packets.data, _WORD).astype(np.int64).reshape(len(packets), self.alphabet.columns)
        return from_offsets(self.alphabet.slots, words).astype(np.int32)


class FixedLengthCode(GroupCode):
    """ceil(log2 A) bits for a slot of A values."""

    name = "fixed"

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        super().__init__(slots)
        self._widths = np.array([(slot.size - 1).bit_length() for slot in slots], np.int64)

    def lengths(self, offsets: Int) -> Int:
        return np.full(len(offsets), self._widths.sum())

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        return offsets, np.broadcast_to(self._widths, offsets.shape)

    def read(self, reader: BitReader) -> Int:
        return np.stack([reader.take(int(width)) for width in self._widths], axis=1)


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
        return np.asarray((2 * _zeros(offsets) + 1).sum(axis=1))

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        zeros = _zeros(offsets)
        shape = (len(offsets), 2 * offsets.shape[1])
        values = np.stack([np.zeros_like(offsets), offsets + 1], axis=-1)
        return values.reshape(shape), np.stack([zeros, zeros + 1], axis=-1).reshape(shape)

    def read(self, reader: BitReader) -> Int:
        columns = []
        for _ in self.slots:
            zeros = reader.zeros()
            if (zeros > 32).any():
                raise reader.error(zeros > 32, "ends too early or holds a number that is too large")
            reader.take(zeros)
            columns.append(reader.take(zeros + 1) - 1)
        return np.stack(columns, axis=1)


def _zeros(offsets: Int) -> Int:
    """floor(log2(offset + 1)), the zeros before the number itself."""
    # frexp is exact here: offsets stay far below 2**53.
    return np.frexp((offsets + 1).astype(np.float64))[1].astype(np.int64) - 1


def _is_whole_words(part: GroupCode) -> bool:
    return isinstance(part, FixedLengthCode) and part.slots[0].kind == "raw" and not part.slots[0].when


def _rows(slots: tuple[Slot, ...], values: Int) -> NDArray[np.bool_] | slice:
    """Which messages hold a group; a slice where all do, so that nothing is copied."""
    return slots[0].used(values) if slots[0].when else slice(None)


def _spread(fields: Int, rows: NDArray[np.bool_] | slice, messages: int) -> Int:
    """Fields [M', F] of some messages among all M, of width zero elsewhere."""
    if isinstance(rows, slice):
        return fields
    spread = np.zeros((messages, fields.shape[1]), np.int64)
    spread[rows] = fields
    return spread


CODES: dict[str, type[GroupCode]] = {code.name: code for code in (FixedLengthCode, MixedRadixCode, EliasGammaCode)}


def default_group(slots: tuple[Slot, ...]) -> GroupCode:
    """The code that marlcomm meters by: Elias-gamma for signed numbers, else the shortest without statistics."""
    if slots[0].kind == "signed":
        return EliasGammaCode(slots)
    return FixedLengthCode(slots) if slots[0].kind == "raw" else MixedRadixCode(slots)
