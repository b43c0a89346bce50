"""Bits on tables that know the dither: prefix codes for single messages, a range coder for whole links."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Symbols
from marlcomm.wire.bits import BitReader, Int, Packets, WireError, write_fields
from marlcomm.wire.conditional import ESCAPE, GAMMA, ConditionalTables, Exemplars, Table, parts
from marlcomm.wire.fitted import huffman_widths

_WORD = np.dtype("<u4")
_HALF = 17  # bits; an escape is two halves


class ConditionalCode:
    """Huffman codes on conditional tables: every message on its own, its levels being known."""

    def __init__(self, tables: ConditionalTables) -> None:
        self.tables = tables
        self._prefixes = [Prefixes(table.frequencies) for table in tables.tables]

    def lengths(self, symbols: Symbols, levels: Int) -> Int:
        """Bits of each message, [M]."""
        return np.asarray(self._fields(symbols, levels)[1].sum(axis=1))

    def encode(self, symbols: Symbols, levels: Int) -> Packets:
        """One packet for each message, symbols [M, D] with levels [M, D]."""
        return write_fields(*self._fields(symbols, levels))

    def decode(self, packets: Packets, levels: Int) -> Symbols:
        """Symbols [M, D] of packets whose levels are known; raises `WireError` for what nobody sent."""
        reader = BitReader(packets)
        rows = self.tables.check_levels(levels, len(reader))
        whole = self.tables.exemplars
        values = self._read_symbols(reader, rows) if whole is None else self._read_messages(whole, reader, rows)
        reader.finish()
        return self.tables.accept(values)

    def _fields(self, symbols: Symbols, levels: Int) -> tuple[Int, Int]:
        """Values and widths of bit fields, both [M, F]: of a whole message, then of symbols where it is none."""
        values, rows = self.tables.check(symbols, levels)
        fields, widths = self._symbol_fields(values, rows)
        whole = self.tables.exemplars
        if whole is None:
            return fields, widths
        frequencies, which = whole.groups(rows)
        prefix, entries = Prefixes(frequencies), whole.entries(values, rows)
        widths = widths * (entries == len(whole))[:, None]
        first = prefix.words[which, entries][:, None], prefix.widths[which, entries][:, None]
        return np.concatenate([first[0], fields], axis=1), np.concatenate([first[1], widths], axis=1)

    def _symbol_fields(self, values: Int, rows: Int) -> tuple[Int, Int]:
        """An entry for each dimension, and the two fields of Elias-gamma where it escapes: both [M, 3 D]."""
        fields, widths = [], []
        for table, prefix, column, row in zip(self.tables.tables, self._prefixes, values.T, rows.T, strict=True):
            entries = table.entries(column)
            gamma, gamma_widths = GAMMA.fields(table.escapes(column)[:, None])
            fields += [prefix.words[row, entries][:, None], gamma]
            widths += [prefix.widths[row, entries][:, None], gamma_widths * (entries == ESCAPE)[:, None]]
        return np.concatenate(fields, axis=1), np.concatenate(widths, axis=1)

    def _read_symbols(self, reader: BitReader, rows: Int) -> Int:
        columns = []
        for table, prefix, row in zip(self.tables.tables, self._prefixes, rows.T, strict=True):
            entries = prefix.read(reader, row)
            numbers = np.zeros_like(entries)
            with reader.only(entries == ESCAPE) as some:
                numbers[entries == ESCAPE] = GAMMA.read(some)[:, 0]
            columns.append(table.symbols(entries, numbers))
        return np.stack(columns, axis=1)

    def _read_messages(self, whole: Exemplars, reader: BitReader, rows: Int) -> Int:
        frequencies, which = whole.groups(rows)
        entries = Prefixes(frequencies).read(reader, which)
        spelled = entries == len(whole)
        values = whole.messages(np.where(spelled, 0, entries), rows)
        with reader.only(spelled) as some:
            values[spelled] = self._read_symbols(some, rows[spelled])
        _refuse_listed(whole, values[spelled], rows[spelled])
        return values


class Prefixes:
    """Canonical Huffman codes, one for each row of frequencies [R, E]; an entry of frequency 0 has no codeword.

    Attributes:
        widths: [R, E], bits of each entry.
        words: [R, E], what is written for it.
    """

    def __init__(self, frequencies: Int) -> None:
        widths = [_widths(tuple(row)) for row in frequencies.tolist()]
        self.widths = np.array(widths, np.int64).reshape(frequencies.shape)
        longest = int(self.widths.max(initial=0))
        # By width, those without a codeword first.
        self._order = np.argsort(self.widths, axis=1, kind="stable")
        self._counts = np.stack([(self.widths == width).sum(axis=1) for width in range(longest + 1)], axis=1)
        self._starts = np.cumsum(self._counts, axis=1) - self._counts
        self._counts[:, 0] = 0
        self._first = np.zeros_like(self._counts)
        for width in range(1, longest + 1):
            self._first[:, width] = 2 * (self._first[:, width - 1] + self._counts[:, width - 1])
        rows, ordered = np.arange(len(frequencies))[:, None], np.sort(self.widths, axis=1)
        ranks = np.arange(frequencies.shape[1]) - self._starts[rows, ordered]
        self.words = np.zeros_like(self.widths)
        self.words[rows, self._order] = np.where(ordered == 0, 0, self._first[rows, ordered] + ranks)

    def read(self, reader: BitReader, rows: Int) -> Int:
        """The next entry of each message [M], by the code of its row [M]; bit by bit, all messages at once."""
        entries, words = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.int64)
        for width in range(1, self._counts.shape[1]):
            waiting = entries < 0
            if not waiting.any():
                break
            with reader.only(waiting) as some:
                words[waiting] = 2 * words[waiting] + some.take(1)
            rank = words - self._first[rows, width]
            found = waiting & (rank < self._counts[rows, width])
            place = self._starts[rows, width] + rank
            entries[found] = self._order[rows[found], place[found]]
        return entries


def write_stream(tables: ConditionalTables, symbols: Symbols, levels: Int) -> bytes:
    """All messages [M, D] of a link as one stream of 32-bit words, by the range coder of ``constriction``.

    Frequencies enter it as quotients of integers, rounded in one way everywhere, so both ends build the same coder.
    """
    values, rows = tables.check(symbols, levels)
    stream = _constriction()
    coder = stream.queue.RangeEncoder()
    whole = tables.exemplars
    if whole is not None:
        entries = whole.entries(values, rows)
        for part in parts(len(values)):
            coder.encode(entries[part].astype(np.int32), _categorical(stream), _shares(whole, rows[part]))
        values, rows = values[entries == len(whole)], rows[entries == len(whole)]
    entries = _by_column(Table.entries, tables, values)
    for part in parts(len(values)):
        coder.encode(entries[part].ravel().astype(np.int32), _categorical(stream), tables.shares(rows[part]))
    escapes = _by_column(Table.escapes, tables, values)[entries == ESCAPE]
    if len(escapes):
        halves = np.stack([escapes >> _HALF, escapes & (2**_HALF - 1)], axis=1)
        coder.encode(halves.ravel().astype(np.int32), stream.model.Uniform(2**_HALF))
    return bytes(coder.get_compressed().astype(_WORD).tobytes())


def read_stream(tables: ConditionalTables, data: bytes, levels: Int) -> Symbols:
    """The messages [M, D] of a stream, whose levels are known; raises `WireError` where it does not end with them."""
    rows = tables.check_levels(levels, len(levels))
    if len(data) % _WORD.itemsize:
        raise WireError(f"a stream is whole words of {_WORD.itemsize} bytes, got {len(data)} bytes")
    stream = _constriction()
    coder = stream.queue.RangeDecoder(np.frombuffer(data, _WORD).astype(np.uint32))
    whole = tables.exemplars
    if whole is None:
        values = _read_symbols(tables, stream, coder, rows)
    else:
        entries = np.zeros(len(rows), np.int64)
        for part in parts(len(rows)):
            entries[part] = coder.decode(_categorical(stream), _shares(whole, rows[part]))
        spelled = entries == len(whole)
        values = whole.messages(np.where(spelled, 0, entries), rows)
        values[spelled] = _read_symbols(tables, stream, coder, rows[spelled])
        _refuse_listed(whole, values[spelled], rows[spelled])
    if not coder.maybe_exhausted():
        raise WireError("the stream goes on after its last symbol")
    return tables.accept(values)


def _read_symbols(tables: ConditionalTables, stream: Any, coder: Any, rows: Int) -> Int:
    """Symbols [M, D] of messages that are spelled."""
    entries = np.zeros(rows.shape, np.int64)
    for part in parts(len(rows)):
        entries[part] = coder.decode(_categorical(stream), tables.shares(rows[part])).reshape(rows[part].shape)
    escapes, escaped = np.zeros(rows.shape, np.int64), entries == ESCAPE
    if escaped.any():
        halves = coder.decode(stream.model.Uniform(2**_HALF), 2 * int(escaped.sum())).astype(np.int64).reshape(-1, 2)
        escapes[escaped] = (halves[:, 0] << _HALF) + halves[:, 1]
    columns = zip(tables.tables, entries.T, escapes.T, strict=True)
    return np.stack([table.symbols(entry, number) for table, entry, number in columns], axis=1)


def _shares(whole: Exemplars, levels: Int) -> NDArray[np.float64]:
    """Shares of whole messages' entries under levels [M, D]: [M, K + 1]."""
    frequencies, which = whole.groups(levels)
    shares: NDArray[np.float64] = frequencies / frequencies.sum(axis=1, keepdims=True)
    return shares[which]


def _refuse_listed(whole: Exemplars, values: Int, levels: Int) -> None:
    if (whole.entries(values, levels) != len(whole)).any():
        raise WireError("a message is spelled that is known as a whole")


@lru_cache(maxsize=2**12)
def _widths(frequencies: tuple[int, ...]) -> Int:
    """Bits of each entry under a Huffman code; 0 where the frequency is 0."""
    counts = np.array(frequencies, np.int64)
    widths = np.zeros_like(counts)
    widths[counts > 0] = huffman_widths(counts[counts > 0])
    return widths


def _by_column(what: Callable[[Table, Int], Int], tables: ConditionalTables, values: Int) -> Int:
    """A method of each dimension's table on its column of values [M, D]."""
    return np.stack([what(table, column) for table, column in zip(tables.tables, values.T, strict=True)], axis=1)


def _constriction() -> Any:
    """The stream coders of ``constriction``, imported only where a stream is wanted."""
    import constriction

    return constriction.stream


def _categorical(stream: Any) -> Any:
    return stream.model.Categorical(perfect=False)
