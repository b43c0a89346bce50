"""Codes that know the dither: tables of P(m | level) for each dimension, prefix codes and a range coder on them.

With shared dither a symbol is m = round((z + eps) / delta), and both ends know eps. So the rate to be paid is that of
m given eps; a code for m alone pays for the dither too, which nobody needs to be told. If F is the distribution
function of z, then

    P(m | eps) = F((m + 1/2) delta - eps) - F((m - 1/2) delta - eps).

Where eps has L levels, eps_k = ((k + 1/2) / L - 1/2) delta, every argument of F lies on one grid of spacing
delta / L. With j = round(L z / delta), the cell of z on that grid, m = floor((j + k) / L). So a histogram of cells is
all of F that is ever needed, a table is a sum of its counts, and everything past the fit is integer arithmetic: the
same tables come out on every machine.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet, Symbols
from marlcomm.wire.bits import BitReader, Int, Packets, WireError, write_fields
from marlcomm.wire.codes import EliasGammaCode
from marlcomm.wire.entropy import plug_in_entropy

TOTAL_BITS = 16
TOTAL = 2**TOTAL_BITS
WIDEST = 2**10  # symbols of one table; the others escape
_KERNEL = (1, 2, 1)  # a signal may drift by a cell between fit and use
_PRIOR = 2  # half an observation for each entry (Krichevsky and Trofimov), in the kernel's quarters
_ESCAPE = 0  # the entry of every table that says "none of these"
_HALF = 17  # bits; an escape is two halves
_MESSAGES_AT_ONCE = 1024
_WORD = np.dtype("<u4")


@dataclass(frozen=True)
class Cells:
    """Where the signals of one dimension fell on the grid of the dither's levels.

    Attributes:
        places: the occupied cells j, ascending.
        counts: how many signals fell in each.
    """

    places: tuple[int, ...]
    counts: tuple[int, ...]

    @staticmethod
    def of(signals: NDArray[np.floating], levels: int, limit: int) -> Cells:
        """Cells of signals [M] in steps; beyond the limit, where every symbol is clipped, all fall in one."""
        edge = _edge(levels, limit)
        places, counts = np.unique(np.clip(np.floor(levels * signals + 0.5), -edge, edge), return_counts=True)
        return Cells(tuple(places.astype(np.int64).tolist()), tuple(counts.tolist()))

    def check(self, levels: int, limit: int) -> None:
        """Raise `ValueError` for what `of` cannot have counted."""
        numbers = [*self.places, *self.counts]
        if not self.places or len(self.places) != len(self.counts) or any(type(n) is not int for n in numbers):
            raise ValueError("a dimension needs as many counts as cells, all of them integers")
        ascending = all(low < high for low, high in zip(self.places, self.places[1:], strict=False))
        if not ascending or max(map(abs, self.places)) > _edge(levels, limit) or min(self.counts) < 1:
            raise ValueError("cells must ascend within the limit, and each needs a positive count")


class Table:
    """Integer frequencies of one dimension's symbols for every level of the dither.

    Entry 0 is the escape, entry 1 + s the symbol low + s; a symbol outside escapes and is named by Elias-gamma.

    Attributes:
        low: the lowest symbol of the support.
        frequencies: [L, 1 + S], each at least 1; every row sums to 2**16.
    """

    def __init__(self, cells: Cells, levels: int, limit: int) -> None:
        self.levels = levels
        places, weights = _smoothed(cells)
        centre = _median(places, weights) // levels
        self.low = max(int(places[0]) // levels, -limit, centre - WIDEST // 2)
        high = min((int(places[-1]) + levels - 1) // levels, limit, centre + WIDEST // 2 - 1)
        self.size = high - self.low + 1
        self.frequencies = _apportion(self._weights(places, weights, limit))

    def _weights(self, places: Int, weights: Int, limit: int) -> Int:
        """How much of the histogram each entry covers, [L, 1 + S], plus the prior."""
        rows = np.arange(self.levels)[:, None]
        found = np.full((self.levels, self.size + 1), _PRIOR, np.int64)
        entries = self.entries(np.clip((places + rows) // self.levels, -limit, limit))
        np.add.at(found, (rows, entries), np.broadcast_to(weights, entries.shape))
        return found

    def entries(self, symbols: Int) -> Int:
        """The entries of symbols, any shape."""
        return np.where(self._inside(symbols), symbols - self.low + 1, _ESCAPE)

    def escapes(self, symbols: Int) -> Int:
        """Numbers of symbols outside the support, from 0: the nearest above and below come first; 0 inside."""
        above = symbols - (self.low + self.size)
        numbers = np.where(above >= 0, 2 * above, 2 * (self.low - 1 - symbols) + 1)
        return np.where(self._inside(symbols), 0, numbers)

    def _inside(self, symbols: Int) -> NDArray[np.bool_]:
        return np.asarray((symbols >= self.low) & (symbols < self.low + self.size))

    def symbols(self, entries: Int, escapes: Int) -> Int:
        """The symbols of entries, and of the numbers of those that escaped."""
        outside = np.where(escapes % 2 == 0, self.low + self.size + escapes // 2, self.low - 1 - escapes // 2)
        return np.where(entries == _ESCAPE, outside, self.low + entries - 1)


class Prefixes:
    """Canonical Huffman codes, one for each row of frequencies [L, E].

    Attributes:
        widths: [L, E], bits of each entry.
        words: [L, E], what is written for it.
    """

    def __init__(self, frequencies: Int) -> None:
        self.widths = np.array([huffman_widths(row) for row in frequencies.tolist()], np.int64)
        rows = np.arange(len(frequencies))[:, None]
        self._order = np.argsort(self.widths, axis=1, kind="stable")
        lengths = np.arange(self.widths.max() + 1)
        counts = (self.widths[:, :, None] == lengths).sum(axis=1)  # [L, W]
        self._ends = np.cumsum(counts, axis=1)
        self._first = np.zeros_like(counts)
        for width in lengths[1:]:
            self._first[:, width] = 2 * (self._first[:, width - 1] + counts[:, width - 1])
        sorted_widths = self.widths[rows, self._order]
        ranks = np.arange(self.widths.shape[1]) - (self._ends - counts)[rows, sorted_widths]
        self.words = np.zeros_like(self.widths)
        self.words[rows, self._order] = self._first[rows, sorted_widths] + ranks
        self._counts = counts

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
            place = (self._ends - self._counts)[rows, width] + rank
            entries[found] = self._order[rows[found], place[found]]
        return entries


class ConditionalTables:
    """One distribution of signals per dimension, and from it the tables of symbols for every level of the dither.

    Symbols are [M, D] int32, levels [M, D] integers in 0 .. L - 1, both in a channel's order of elements.

    Args:
        cells: where training-time signals fell, one histogram per dimension.
        levels: L, of the dither.
        limit: largest magnitude of a symbol.
    """

    def __init__(self, cells: Sequence[Cells], levels: int, limit: int = 2**15 - 1) -> None:
        if not cells:
            raise ValueError("tables need at least one dimension")
        for one in cells:
            one.check(levels, limit)
        self.cells, self.levels, self.limit = tuple(cells), levels, limit
        self.alphabet = Alphabet.signed(len(self.cells), limit)
        self.tables = [Table(one, levels, limit) for one in self.cells]

    @classmethod
    def fit(cls, signals: NDArray[np.floating], levels: int = 64, limit: int = 2**15 - 1) -> ConditionalTables:
        """Tables from training-time signals z / delta [M, D]; raises `WireError` unless there are some, all finite."""
        signals = np.asarray(signals, np.float64)
        if signals.ndim != 2 or not signals.size or not np.isfinite(signals).all():
            raise WireError(f"wanted finite signals of shape [messages, D], got shape {list(signals.shape)}")
        return cls([Cells.of(column, levels, limit) for column in signals.T], levels, limit)

    def ideal_bits(self, symbols: Symbols, levels: Int) -> NDArray[np.float64]:
        """-log2 of the tables' frequencies (and Elias-gamma for escapes), [M]: what a range coder approaches."""
        values, rows = self.check(symbols, levels)
        bits = np.zeros(len(values))
        for table, column, row in zip(self.tables, values.T, rows.T, strict=True):
            entries = table.entries(column)
            bits += TOTAL_BITS - np.log2(table.frequencies[row, entries])
            bits += (entries == _ESCAPE) * _GAMMA.lengths(table.escapes(column)[:, None])
        return bits

    def check(self, symbols: Symbols, levels: Int) -> tuple[Int, Int]:
        """Both as int64; raises `WireError` for a symbol or a level that there is not."""
        values = self.alphabet.check(symbols)
        return values, self.check_levels(levels, len(values))

    def check_levels(self, levels: Int, messages: int) -> Int:
        rows = np.asarray(levels)
        if rows.shape != (messages, len(self.tables)) or rows.dtype.kind not in "iu":
            raise WireError(
                f"levels must be integers of shape {[messages, len(self.tables)]}, "
                f"got {rows.dtype} of shape {list(rows.shape)}"
            )
        if ((rows < 0) | (rows >= self.levels)).any():
            raise WireError(f"a dither level is not in 0..{self.levels - 1}")
        return rows.astype(np.int64)

    def accept(self, values: Int) -> Symbols:
        """Decoded values [M, D] as symbols; raises `WireError` for one beyond the limit."""
        if (np.abs(values) > self.limit).any():
            raise WireError("a decoded symbol is outside its alphabet")
        return values.astype(np.int32)

    def shares(self, levels: Int) -> NDArray[np.float64]:
        """Frequencies over their sum, [M D, E] in the order of messages; E is that of the widest table."""
        widest = max(table.frequencies.shape[1] for table in self.tables)
        found = np.zeros((*levels.shape, widest))
        for d, table in enumerate(self.tables):
            found[:, d, : table.frequencies.shape[1]] = table.frequencies[levels[:, d]] / TOTAL
        return found.reshape(-1, widest)

    def state(self) -> dict[str, Any]:
        """Plain data to store beside a checkpoint."""
        return {
            "levels": self.levels,
            "limit": self.limit,
            "cells": [list(one.places) for one in self.cells],
            "counts": [list(one.counts) for one in self.cells],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> ConditionalTables:
        """The tables of a state; raises `WireError` for what is none."""
        try:
            pairs = zip(state["cells"], state["counts"], strict=True)
            cells = [Cells(tuple(places), tuple(counts)) for places, counts in pairs]
            levels, limit = state["levels"], state["limit"]
            if type(levels) is not int or type(limit) is not int or levels < 1 or limit < 1:
                raise ValueError("levels and limit must be positive integers")
            return cls(cells, levels, limit)
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"this is not the state of conditional tables: {error}") from None

    @cached_property
    def digest(self) -> str:
        """BLAKE2b of the state's canonical JSON, 32 hexadecimal digits; every table follows from it."""
        text = json.dumps(self.state(), sort_keys=True, separators=(",", ":"))
        return blake2b(text.encode(), digest_size=16).hexdigest()


class ConditionalCode:
    """A prefix code for each dimension and level, Huffman on the tables: every message on its own."""

    def __init__(self, tables: ConditionalTables) -> None:
        self.tables = tables
        self._prefixes = [Prefixes(table.frequencies) for table in tables.tables]

    def lengths(self, symbols: Symbols, levels: Int) -> Int:
        """Bits of each message, [M]."""
        return np.asarray(self._fields(symbols, levels)[1].sum(axis=1))

    def encode(self, symbols: Symbols, levels: Int) -> Packets:
        """One packet for each message, symbols [M, D] with levels [M, D]."""
        return write_fields(*self._fields(symbols, levels))

    def _fields(self, symbols: Symbols, levels: Int) -> tuple[Int, Int]:
        """Values and widths of bit fields, both [M, 3 D]: an entry, and the two of Elias-gamma where it escapes."""
        values, rows = self.tables.check(symbols, levels)
        fields = [np.zeros((len(values), 0), np.int64)]
        widths = [np.zeros((len(values), 0), np.int64)]
        for table, prefix, column, row in zip(self.tables.tables, self._prefixes, values.T, rows.T, strict=True):
            entries = table.entries(column)
            escaped = (entries == _ESCAPE)[:, None]
            gamma, gamma_widths = _GAMMA.fields(table.escapes(column)[:, None])
            fields += [prefix.words[row, entries][:, None], gamma]
            widths += [prefix.widths[row, entries][:, None], gamma_widths * escaped]
        return np.concatenate(fields, axis=1), np.concatenate(widths, axis=1)

    def decode(self, packets: Packets, levels: Int) -> Symbols:
        """Symbols [M, D] of packets whose levels are known; raises `WireError` for what nobody sent."""
        reader = BitReader(packets)
        rows = self.tables.check_levels(levels, len(reader))
        columns = []
        for table, prefix, row in zip(self.tables.tables, self._prefixes, rows.T, strict=True):
            entries = prefix.read(reader, row)
            numbers = np.zeros_like(entries)
            with reader.only(entries == _ESCAPE) as some:
                numbers[entries == _ESCAPE] = _GAMMA.read(some)[:, 0]
            columns.append(table.symbols(entries, numbers))
        reader.finish()
        return self.tables.accept(np.stack(columns, axis=1))


def write_stream(tables: ConditionalTables, symbols: Symbols, levels: Int) -> bytes:
    """All messages [M, D] of a link as one stream of 32-bit words, by the range coder of ``constriction``.

    Frequencies enter it as multiples of 2**-16, exact in floating point, so both ends build the same coder.
    """
    values, rows = tables.check(symbols, levels)
    entries = _by_column(Table.entries, tables, values)
    escapes = _by_column(Table.escapes, tables, values)[entries == _ESCAPE]
    stream = _constriction()
    coder = stream.queue.RangeEncoder()
    for part in _parts(len(values)):
        coder.encode(entries[part].ravel().astype(np.int32), _categorical(stream), tables.shares(rows[part]))
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
    entries = np.zeros(rows.shape, np.int64)
    for part in _parts(len(rows)):
        entries[part] = coder.decode(_categorical(stream), tables.shares(rows[part])).reshape(rows[part].shape)
    escapes, escaped = np.zeros(rows.shape, np.int64), entries == _ESCAPE
    if escaped.any():
        halves = coder.decode(stream.model.Uniform(2**_HALF), 2 * int(escaped.sum())).astype(np.int64).reshape(-1, 2)
        escapes[escaped] = (halves[:, 0] << _HALF) + halves[:, 1]
    if not coder.maybe_exhausted():
        raise WireError("the stream goes on after its last symbol")
    columns = zip(tables.tables, entries.T, escapes.T, strict=True)
    return tables.accept(np.stack([table.symbols(entry, number) for table, entry, number in columns], axis=1))


def entropies_given_dither(signals: NDArray[np.floating], dithers: NDArray[np.floating]) -> NDArray[np.float64]:
    """Plug-in entropy in bits of whole messages for each known dither: signals [M, D], dithers [R, D] -> [R].

    Both in units of the step. Every dither is applied to all M signals, so each entropy has M samples behind it; a
    message being a function of signal and dither, none exceeds the plug-in entropy of the signals.
    """
    distinct, counts = np.unique(signals, axis=0, return_counts=True)
    found = np.zeros(len(dithers))
    for place, dither in enumerate(dithers):
        _, names = np.unique(np.floor(distinct + dither + 0.5), axis=0, return_inverse=True)
        found[place] = plug_in_entropy(np.bincount(names.ravel(), weights=counts))
    return found


def huffman_widths(frequencies: Sequence[int]) -> list[int]:
    """Bits of each entry under an optimal prefix code for at least two positive frequencies; ties by position."""
    nodes = [(frequency, place, [place]) for place, frequency in enumerate(frequencies)]
    heapq.heapify(nodes)
    widths, fresh = [0] * len(nodes), len(nodes)
    while len(nodes) > 1:
        first, _, left = heapq.heappop(nodes)
        second, _, right = heapq.heappop(nodes)
        for place in left + right:
            widths[place] += 1
        heapq.heappush(nodes, (first + second, fresh, left + right))
        fresh += 1
    return widths


def _edge(levels: int, limit: int) -> int:
    """The outermost cell: so far out that the kernel around it reaches clipped symbols only."""
    return levels * limit + len(_KERNEL) // 2


def _smoothed(cells: Cells) -> tuple[Int, Int]:
    """Places and weights of the histogram under the kernel."""
    offsets = np.arange(len(_KERNEL)) - len(_KERNEL) // 2
    places = np.add.outer(np.array(cells.places, np.int64), offsets)
    weights = np.multiply.outer(np.array(cells.counts, np.int64), np.array(_KERNEL, np.int64))
    order = np.argsort(places, axis=None, kind="stable")
    return places.ravel()[order], weights.ravel()[order]


def _median(places: Int, weights: Int) -> int:
    cumulative = np.cumsum(weights)
    return int(places[np.searchsorted(cumulative, cumulative[-1] // 2)])


def _apportion(weights: Int) -> Int:
    """Frequencies [L, E] in proportion to weights: at least 1 each, 2**16 in a row (largest remainders first)."""
    spare = TOTAL - weights.shape[1]
    quotas, remainders = np.divmod(spare * weights, weights.sum(axis=1, keepdims=True))
    missing = spare - quotas.sum(axis=1, keepdims=True)
    order = np.argsort(-remainders, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable")
    return np.asarray(1 + quotas + (ranks < missing))


def _by_column(what: Callable[[Table, Int], Int], tables: ConditionalTables, values: Int) -> Int:
    """A method of each dimension's table on its column of values [M, D]."""
    return np.stack([what(table, column) for table, column in zip(tables.tables, values.T, strict=True)], axis=1)


def _parts(messages: int) -> Iterator[slice]:
    return (slice(first, first + _MESSAGES_AT_ONCE) for first in range(0, messages, _MESSAGES_AT_ONCE))


def _constriction() -> Any:
    """The stream coders of ``constriction``, imported only where a stream is wanted."""
    import constriction

    return constriction.stream


def _categorical(stream: Any) -> Any:
    return stream.model.Categorical(perfect=False)


_GAMMA = EliasGammaCode(Alphabet.signed(1).slots)
