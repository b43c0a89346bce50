"""Codes: symbols to bits and back, each message on its own, with lengths known exactly beforehand.

Every code here is a prefix code: whoever knows the alphabet reads a message without being told where it ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet
from marlcomm.wire.bits import BitReader, Int, Packets, WireError, write_fields

Symbols = NDArray[np.int32]


class Code(ABC):
    """A code for the messages of one alphabet. Symbols are [M, S] integers."""

    name: str

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet

    @abstractmethod
    def lengths(self, symbols: Symbols) -> Int:
        """Bits of each message, [M], of symbols [M, S] that are in the alphabet."""

    def encode(self, symbols: Symbols) -> Packets:
        """The bytes of messages; raises `WireError` for a symbol outside the alphabet."""
        return write_fields(*self._fields(self._offsets(symbols)))

    def decode(self, packets: Packets) -> Symbols:
        """The symbols [M, S] of packets; raises `WireError` for bytes that no sender can have sent."""
        reader = BitReader(packets)
        offsets = self._read(reader)
        reader.finish()
        return self._from_offsets(offsets)

    @abstractmethod
    def _fields(self, offsets: Int) -> tuple[Int, Int]:
        """Values and widths of bit fields, both [M, F]."""

    @abstractmethod
    def _read(self, reader: BitReader) -> Int:
        """Offsets [M, S] from a reader."""

    def _checked(self, symbols: Symbols) -> Int:
        """Symbols of the alphabet, as int64; raises `WireError` for others."""
        values = np.asarray(symbols)
        if values.ndim != 2 or values.shape[1] != self.alphabet.slots or values.dtype.kind not in "iu":
            raise WireError(
                f"symbols must be integers of shape [messages, {self.alphabet.slots}], "
                f"got {values.dtype} of shape {list(values.shape)}"
            )
        wide: Int = values.astype(np.int64)
        low, high = np.array(self.alphabet.bounds, np.int64).reshape(-1, 2).T
        outside = (wide < low) | (wide > high)
        if outside.any():
            message, slot = np.argwhere(outside)[0]
            raise WireError(
                f"symbol {wide[message, slot]} in slot {slot} of message {message} is not in {low[slot]}..{high[slot]}"
            )
        return wide

    def _offsets(self, symbols: Symbols) -> Int:
        """Symbols as numbers from 0: signed ones by zig-zag (0, -1, 1, -2, 2 to 0, 1, 2, 3, 4)."""
        values = self._checked(symbols)
        if self.alphabet.kind == "signed":
            return np.where(values >= 0, 2 * values, -2 * values - 1)
        return values - np.array(self.alphabet.bounds, np.int64).reshape(-1, 2)[:, 0]

    def _from_offsets(self, offsets: Int) -> Symbols:
        sizes = np.array(self.alphabet.sizes, np.int64)
        if (offsets >= sizes).any():
            raise WireError("a decoded symbol is outside its alphabet")
        if self.alphabet.kind == "signed":
            return np.where(offsets % 2 == 0, offsets // 2, -(offsets + 1) // 2).astype(np.int32)
        low = np.array(self.alphabet.bounds, np.int64).reshape(-1, 2)[:, 0]
        return (offsets + low).astype(np.int32)


class FixedLengthCode(Code):
    """ceil(log2 A) bits for a slot of A values; 32-bit patterns go as they are, the most significant byte first."""

    name = "fixed"
    _WORD = np.dtype(">i4")

    def __init__(self, alphabet: Alphabet) -> None:
        super().__init__(alphabet)
        self._widths = np.array([(size - 1).bit_length() for size in alphabet.sizes], np.int64)

    def lengths(self, symbols: Symbols) -> Int:
        return np.full(len(symbols), self._widths.sum())

    def encode(self, symbols: Symbols) -> Packets:
        if self.alphabet.kind != "raw":
            return super().encode(symbols)
        words = self._checked(symbols).astype(self._WORD)
        sizes = np.full(len(words), words.itemsize * self.alphabet.slots)
        return Packets(words.tobytes(), sizes, 8 * sizes)

    def decode(self, packets: Packets) -> Symbols:
        if self.alphabet.kind != "raw":
            return super().decode(packets)
        size = self._WORD.itemsize * self.alphabet.slots
        if (packets.sizes != size).any() or len(packets.data) != size * len(packets):
            raise WireError(f"wanted {len(packets)} messages of {size} bytes, got {len(packets.data)} bytes")
        return np.frombuffer(packets.data, self._WORD).astype(np.int32).reshape(len(packets), self.alphabet.slots)

    def _fields(self, offsets: Int) -> tuple[Int, Int]:
        return offsets, np.broadcast_to(self._widths, offsets.shape)

    def _read(self, reader: BitReader) -> Int:
        columns = [reader.take(int(width)) for width in self._widths]
        return _as_columns(columns, reader)


class MixedRadixCode(Code):
    """A message as one number in mixed radix: ceil(log2 of the product of all A) bits."""

    name = "mixed-radix"
    _CHUNK = 32

    def __init__(self, alphabet: Alphabet) -> None:
        super().__init__(alphabet)
        messages = 1
        for size in alphabet.sizes:
            messages *= size
        self._bits = (messages - 1).bit_length()
        chunks = -(-self._bits // self._CHUNK)
        self._widths = np.array(
            [self._bits - self._CHUNK * (chunks - 1), *[self._CHUNK] * (chunks - 1)][:chunks], np.int64
        )
        # Beyond 62 bits numpy's integers overflow; Python's do not.
        self._dtype: type = np.int64 if self._bits <= 62 else object

    def lengths(self, symbols: Symbols) -> Int:
        return np.full(len(symbols), self._bits)

    def _fields(self, offsets: Int) -> tuple[Int, Int]:
        number: NDArray[Any] = np.zeros(len(offsets), self._dtype)
        for slot, size in enumerate(self.alphabet.sizes):
            number = number * size + offsets[:, slot]
        shifts = np.cumsum(self._widths[::-1])[::-1] - self._widths
        chunks = [
            (number >> int(shift)) & ((1 << int(width)) - 1) for shift, width in zip(shifts, self._widths, strict=True)
        ]
        values = np.stack(chunks, axis=1).astype(np.int64) if chunks else np.zeros((len(offsets), 0), np.int64)
        return values, np.broadcast_to(self._widths, values.shape)

    def _read(self, reader: BitReader) -> Int:
        number: NDArray[Any] = np.zeros_like(reader.zeros()).astype(self._dtype)
        for width in self._widths:
            number = (number << int(width)) + reader.take(int(width))
        columns = []
        for size in reversed(self.alphabet.sizes):
            columns.append((number % size).astype(np.int64))
            number = number // size
        if (number != 0).any():
            raise WireError("a decoded message is outside its alphabet")
        return _as_columns(columns[::-1], reader)


class EliasGammaCode(Code):
    """2 floor(log2 n) + 1 bits for offset n - 1: short for small offsets, and no bound on large ones (Elias 1975)."""

    name = "elias-gamma"

    def lengths(self, symbols: Symbols) -> Int:
        return np.asarray((2 * _zeros(self._offsets(symbols)) + 1).sum(axis=1))

    def _fields(self, offsets: Int) -> tuple[Int, Int]:
        zeros = _zeros(offsets)
        shape = (len(offsets), 2 * offsets.shape[1])
        values = np.stack([np.zeros_like(offsets), offsets + 1], axis=-1)
        return values.reshape(shape), np.stack([zeros, zeros + 1], axis=-1).reshape(shape)

    def _read(self, reader: BitReader) -> Int:
        columns = []
        for _ in range(self.alphabet.slots):
            zeros = reader.zeros()
            if (zeros > 32).any():
                raise WireError(
                    f"message {int(np.argmax(zeros > 32))} ends too early or holds a number that is too large"
                )
            reader.take(zeros)
            columns.append(reader.take(zeros + 1) - 1)
        return _as_columns(columns, reader)


def _zeros(offsets: Int) -> Int:
    """floor(log2(offset + 1)), the zeros before the number itself."""
    # frexp is exact here: offsets stay far below 2**53.
    return np.frexp((offsets + 1).astype(np.float64))[1].astype(np.int64) - 1


def _as_columns(columns: list[Int], reader: BitReader) -> Int:
    return np.stack(columns, axis=1) if columns else np.zeros((len(reader.zeros()), 0), np.int64)


CODES: dict[str, type[Code]] = {code.name: code for code in (FixedLengthCode, MixedRadixCode, EliasGammaCode)}


def default_code(alphabet: Alphabet) -> Code:
    """The code that marlcomm meters by: Elias-gamma for signed numbers, else the shortest without statistics."""
    if alphabet.kind == "signed":
        return EliasGammaCode(alphabet)
    return FixedLengthCode(alphabet) if alphabet.kind == "raw" else MixedRadixCode(alphabet)
