"""Codes with statistics: fitted on messages of the training time, then frozen and stored."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Slot
from marlcomm.wire.bits import BitReader, Int
from marlcomm.wire.groups import LARGEST_MAGNITUDE, GroupCode, columns, magnitudes, side_by_side
from marlcomm.wire.state import State, integers
from marlcomm.wire.tables import MessageTable, SlotTable

_LONGEST_UNARY = 24
_PARAMETERS = range(LARGEST_MAGNITUDE)


class RiceCode(GroupCode):
    """floor(n / 2**k) in unary, then the k low bits of n: floor(n / 2**k) + 1 + k bits for offset n (Rice 1979).

    Optimal for geometric sources. A quotient of 24 or more would only get longer: 24 zeros, then what is beyond
    24 * 2**k in Elias-gamma.

    Args:
        slots: of the group.
        parameters: k of each slot, 0 to 31; 0 for all if None.
    """

    name = "rice"

    def __init__(self, slots: tuple[Slot, ...], parameters: Sequence[int] | Int | None = None) -> None:
        super().__init__(slots)
        self.parameters: Int = np.array([0] * len(slots) if parameters is None else parameters, np.int64)
        if len(self.parameters) != len(slots) or not np.isin(self.parameters, _PARAMETERS).all():
            raise ValueError(f"wanted {len(slots)} Rice parameters in 0..{_PARAMETERS[-1]}, got {parameters}")

    @classmethod
    def fit(cls, slots: tuple[Slot, ...], offsets: Int) -> Self:
        """The shortest parameter of each slot for offsets [M, G]; the smallest of equal ones."""
        if not len(offsets):
            return cls(slots)
        totals = [_rice_lengths(offsets, np.int64(k)).sum(axis=0) for k in _PARAMETERS]
        return cls(slots, np.argmin(totals, axis=0))

    def lengths(self, offsets: Int) -> Int:
        return np.asarray(_rice_lengths(offsets, self.parameters).sum(axis=1))

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        quotients, beyond = offsets >> self.parameters, _beyond(offsets, self.parameters)
        escaped, extra = quotients >= _LONGEST_UNARY, magnitudes(np.maximum(beyond, 0))
        low = offsets - (quotients << self.parameters)
        zeros = np.where(escaped, _LONGEST_UNARY + extra, quotients)
        numbers = np.where(escaped, beyond + 1, (np.int64(1) << self.parameters) + low)
        return side_by_side((np.zeros_like(offsets), zeros), (numbers, np.where(escaped, extra, self.parameters) + 1))

    def read(self, reader: BitReader) -> Int:
        return columns([_read_rice(reader, int(k)) for k in self.parameters], reader)

    def state(self) -> State:
        return super().state() | {"parameters": self.parameters.tolist()}

    @classmethod
    def from_state(cls, slots: tuple[Slot, ...], state: State) -> Self:
        return cls(slots, integers(state["parameters"]))


def _beyond(offsets: Int, parameters: Int) -> Int:
    """What of each offset is beyond the longest unary part."""
    return np.asarray(offsets - (np.int64(_LONGEST_UNARY) << parameters))


def _rice_lengths(offsets: Int, parameters: Int | np.int64) -> Int:
    quotients, beyond = offsets >> parameters, _beyond(offsets, np.asarray(parameters))
    escape = _LONGEST_UNARY + 2 * magnitudes(np.maximum(beyond, 0)) + 1
    return np.where(quotients >= _LONGEST_UNARY, escape, quotients + 1 + parameters)


def _read_rice(reader: BitReader, k: int) -> Int:
    zeros = reader.zeros()
    escaped, extra = zeros >= _LONGEST_UNARY, np.maximum(zeros - _LONGEST_UNARY, 0)
    if (extra > LARGEST_MAGNITUDE).any():
        raise reader.error(extra > LARGEST_MAGNITUDE, "ends too early or holds a number that is too large")
    reader.take(zeros)
    numbers = reader.take(np.where(escaped, extra, k) + 1)
    beyond = numbers - 1 + (np.int64(_LONGEST_UNARY) << k)
    return np.where(escaped, beyond, numbers - (np.int64(1) << k) + (zeros << k))


class HuffmanCode(GroupCode):
    """The shortest prefix code for each slot's frequency table (Huffman 1952), in canonical order.

    An unlisted value is the escape entry's codeword and then the table's tail (Elias-gamma of the offset for signed
    integers, fixed length for others).

    Args:
        slots: of the group.
        tables: of the slots; what is known without messages if None.
    """

    name = "huffman"

    def __init__(self, slots: tuple[Slot, ...], tables: Sequence[SlotTable] | None = None) -> None:
        super().__init__(slots)
        self.tables = [SlotTable.fit(slot, _NOTHING) for slot in slots] if tables is None else list(tables)
        self._books = [PrefixBook(table.counts.counts) for table in self.tables]

    @classmethod
    def fit(cls, slots: tuple[Slot, ...], offsets: Int) -> Self:
        return cls(slots, [SlotTable.fit(slot, column) for slot, column in zip(slots, offsets.T, strict=True)])

    def lengths(self, offsets: Int) -> Int:
        bits = np.zeros(len(offsets), np.int64)
        for table, book, column in zip(self.tables, self._books, offsets.T, strict=True):
            entries = table.entries(column)
            bits += book.widths[entries]
            escaped = entries == table.counts.known
            bits[escaped] += table.tail.lengths(column[escaped, None])
        return bits

    def fields(self, offsets: Int) -> tuple[Int, Int]:
        values, widths = [np.zeros((len(offsets), 0), np.int64)], [np.zeros((len(offsets), 0), np.int64)]
        for table, book, column in zip(self.tables, self._books, offsets.T, strict=True):
            entries = table.entries(column)
            escaped = entries == table.counts.known
            tail = table.tail.fields(column[escaped, None])
            values += [book.codewords[entries, None], spread(tail[0], escaped)]
            widths += [book.widths[entries, None], spread(tail[1], escaped)]
        return np.concatenate(values, axis=1), np.concatenate(widths, axis=1)

    def read(self, reader: BitReader) -> Int:
        pairs = zip(self.tables, self._books, strict=True)
        return columns([_read_value(table, book, reader) for table, book in pairs], reader)

    def state(self) -> State:
        return super().state() | {"tables": [table.state() for table in self.tables]}

    @classmethod
    def from_state(cls, slots: tuple[Slot, ...], state: State) -> Self:
        return cls(slots, [SlotTable.from_state(slot, part) for slot, part in zip(slots, state["tables"], strict=True)])


_NOTHING = np.zeros(0, np.int64)


def _read_value(table: SlotTable, book: PrefixBook, reader: BitReader) -> Int:
    entries = book.read(reader)
    escaped = entries == table.counts.known
    offsets = np.append(table.offsets, 0)[entries]
    if escaped.any():
        with reader.only(escaped) as some:
            offsets[escaped] = table.tail.read(some)[:, 0]
        wrong = escaped & (table.entries(offsets) != table.counts.known)
        if wrong.any():
            raise reader.error(wrong, "spells out a value that the table lists")
    return offsets


class WholeMessageCode:
    """The shortest prefix code for a table of whole messages; after the escape entry a message follows slot by slot."""

    def __init__(self, table: MessageTable) -> None:
        self.table = table
        self._book = PrefixBook(table.counts.counts)

    def fields(self, symbols: Int) -> tuple[Int, Int, NDArray[np.bool_]]:
        """Codewords [M, 1] and widths [M, 1] of messages [M, S], and which messages follow slot by slot."""
        entries = self.table.entries(symbols)
        return self._book.codewords[entries, None], self._book.widths[entries, None], self._spelled(entries)

    def read(self, reader: BitReader) -> tuple[Int, NDArray[np.bool_]]:
        """Messages [M, S], zeros for those that follow slot by slot, and which these are."""
        entries = self._book.read(reader)
        nothing = np.zeros((1, self.table.messages.shape[1]), np.int64)
        return np.concatenate([self.table.messages, nothing])[entries], self._spelled(entries)

    def _spelled(self, entries: Int) -> NDArray[np.bool_]:
        return np.asarray(entries == self.table.counts.known)


class PrefixBook:
    """The codewords of entries with given counts: Huffman's lengths, shorter codewords first.

    Attributes:
        codewords, widths: [K], the bits of each entry as a number, and how many.
    """

    def __init__(self, counts: Int) -> None:
        self.widths = huffman_widths(counts)
        self._longest = int(self.widths.max())
        self._order = np.argsort(self.widths, kind="stable")
        steps = np.int64(1) << (self._longest - self.widths[self._order])
        self._starts = np.cumsum(steps) - steps  # of each codeword, if all were as wide as the longest
        self.codewords = np.zeros(len(counts), np.int64)
        self.codewords[self._order] = self._starts // steps

    def read(self, reader: BitReader) -> Int:
        """The next entry of each message, [M]."""
        window = reader.peek(self._longest)
        entries = self._order[np.searchsorted(self._starts, window, side="right") - 1]
        reader.take(self.widths[entries])
        return np.asarray(entries)


def huffman_widths(counts: Int) -> Int:
    """Codeword lengths [K] for positive counts [K]; of equal counts the first is joined first."""
    tree: list[tuple[int, int]] = [(count, entry) for entry, count in enumerate(counts.tolist())]
    heapq.heapify(tree)
    parents = np.zeros(2 * len(tree) - 1, np.int64)
    for node in range(len(counts), len(parents)):
        (one, left), (two, right) = heapq.heappop(tree), heapq.heappop(tree)
        parents[[left, right]] = node
        heapq.heappush(tree, (one + two, node))
    depths = np.zeros(len(parents), np.int64)
    for node in reversed(range(len(parents) - 1)):
        depths[node] = depths[parents[node]] + 1
    return depths[: len(counts)]


def spread(fields: Int, rows: NDArray[np.bool_]) -> Int:
    """Fields [M', F] of some messages among all M, of width zero elsewhere."""
    among = np.zeros((len(rows), fields.shape[1]), np.int64)
    among[rows] = fields
    return among
