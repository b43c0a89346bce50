"""Bits of many messages at once: fields of any width to bytes, and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]


class WireError(ValueError):
    """Symbols that no code can carry, bytes that no sender can have sent, or a stored state that is no code's."""


@dataclass(frozen=True)
class Packets:
    """M messages, each padded to whole bytes, one after the other.

    Attributes:
        data: the bytes of all messages.
        sizes: [M], bytes of each message.
        bits: [M], bits of each message before padding.
    """

    data: bytes
    sizes: Int
    bits: Int

    def __len__(self) -> int:
        return len(self.sizes)


def write_fields(values: Int, widths: Int) -> Packets:
    """Pack fields [M, F] of up to 63 bits each, most significant bit first."""
    bits = widths.sum(axis=1)
    padding = -bits % 8
    values = np.concatenate([values, np.zeros((len(values), 1), np.int64)], axis=1).ravel()
    widths = np.concatenate([widths, padding[:, None]], axis=1).ravel()
    first = np.cumsum(widths) - widths
    index = np.arange(widths.sum()) - np.repeat(first, widths)
    shift = np.repeat(widths, widths) - 1 - index
    stream = (np.repeat(values, widths) >> shift) & 1
    return Packets(np.packbits(stream.astype(np.uint8)).tobytes(), (bits + padding) // 8, bits)


class BitReader:
    """Reads M messages side by side, each from its own position."""

    def __init__(self, packets: Packets) -> None:
        bits = np.unpackbits(np.frombuffer(packets.data, np.uint8))
        ends = np.cumsum(packets.sizes) * 8
        if len(bits) != (ends[-1] if len(ends) else 0):
            raise WireError(f"the packets hold {len(bits) // 8} bytes, their sizes say {int(packets.sizes.sum())}")
        # A guard bit of one, so that a search for the next one always ends (past every message).
        self._bits = np.append(bits, np.uint8(1)).astype(np.int64)
        self._ends = ends
        self._position = ends - packets.sizes * 8
        self._numbers = np.arange(len(ends))
        ones = np.where(self._bits == 1, np.arange(len(self._bits)), len(self._bits))
        self._next_one = np.minimum.accumulate(ones[::-1])[::-1]

    def __len__(self) -> int:
        return len(self._position)

    @contextmanager
    def only(self, rows: NDArray[np.bool_]) -> Iterator[BitReader]:
        """A reader of some of the messages, [M] bool; what it reads there is read here too."""
        part = copy.copy(self)
        part._ends, part._position, part._numbers = self._ends[rows], self._position[rows], self._numbers[rows]
        yield part
        self._position = self._position.copy()
        self._position[rows] = part._position

    def error(self, wrong: NDArray[np.bool_], what: str) -> WireError:
        """The error that names the first message that is wrong, [M] bool."""
        return WireError(f"message {int(self._numbers[np.argmax(wrong)])} {what}")

    def take(self, widths: Int | int) -> Int:
        """The next field of each message, [M]; widths [M] or one for all."""
        widths = np.broadcast_to(np.asarray(widths, np.int64), self._position.shape)
        if (self._position + widths > self._ends).any():
            raise self.error(self._position + widths > self._ends, "ends too early")
        values = np.zeros_like(self._position)
        for offset in range(int(widths.max(initial=0))):
            at = np.minimum(self._position + offset, len(self._bits) - 1)
            values = np.where(offset < widths, 2 * values + self._bits[at], values)
        self._position = self._position + widths
        return values

    def peek(self, width: int) -> Int:
        """The next `width` bits as numbers [M], even beyond a message's end; nothing is consumed."""
        at = np.minimum(self._position[:, None] + np.arange(width), len(self._bits) - 1)
        return np.asarray(self._bits[at] @ (np.int64(1) << np.arange(width)[::-1]))

    def zeros(self) -> Int:
        """How many zeros stand before the next one in each message, [M]; nothing is consumed."""
        return np.asarray(self._next_one[np.minimum(self._position, len(self._bits) - 1)] - self._position)

    def finish(self) -> None:
        """Raise `WireError` unless only zero padding of less than a byte is left of every message."""
        left = self._ends - self._position
        if (left >= 8).any():
            raise self.error(left >= 8, "goes on after its last symbol")
        if self.take(left).any():
            raise WireError("the padding of a message is not zero")
