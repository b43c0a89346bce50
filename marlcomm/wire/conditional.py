"""What symbols to expect where the dither is known: tables of P(m | level), from one histogram of signals.

With shared dither a symbol is m = round((z + eps) / delta), and both ends know eps. So the rate to be paid is that of
m given eps; a code for m alone pays for the dither too, which nobody needs to be told. If F is the distribution
function of z, then

    P(m | eps) = F((m + 1/2) delta - eps) - F((m - 1/2) delta - eps).

Where eps has L levels, eps_k = ((k + 1/2) / L - 1/2) delta, every argument of F lies on one grid of spacing
delta / L. With j = round(L z / delta), the cell of z on that grid, m = floor((j + k) / L). So a histogram of cells is
all of F that is ever needed, a table is a sum of its counts, and everything past the fit is integer arithmetic: the
same tables come out on every machine.

That is said of one dimension. A speaker with little to say repeats whole messages, and then one element tells about
the next: the most frequent rows of cells are kept too, and under a given dither each of them is one message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet, Symbols
from marlcomm.wire.bits import Int, WireError
from marlcomm.wire.entropy import message_ids, plug_in_entropy
from marlcomm.wire.groups import EliasGammaCode
from marlcomm.wire.state import State, digest, integers, rebuilding

TOTAL_BITS = 16
TOTAL = 2**TOTAL_BITS
WIDEST = 2**10  # symbols of one table; the others escape
MOST_EXEMPLARS = 64
_MESSAGES_AT_ONCE = 1024
_KERNEL = (1, 2, 1)  # a signal may drift by a cell between fit and use
_PRIOR = 2  # half an observation for each entry (Krichevsky and Trofimov), in the kernel's quarters
ESCAPE = 0  # the entry of every table that says "none of these"


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
    def of(cells: Int) -> Cells:
        """The histogram of cells [M]."""
        places, counts = np.unique(cells, return_counts=True)
        return Cells(tuple(places.tolist()), tuple(counts.tolist()))

    def check(self, levels: int, limit: int) -> None:
        """Raise `ValueError` for what `of` cannot have counted."""
        if not self.places or len(self.places) != len(self.counts):
            raise ValueError("a dimension needs cells, and a count for each")
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
        return np.where(self._inside(symbols), symbols - self.low + 1, ESCAPE)

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
        return np.where(entries == ESCAPE, outside, self.low + entries - 1)


class Exemplars:
    """The whole messages that are said again and again: rows of cells, and how often each came.

    Under a dither that is known each of them is one message, and some may be the same one: such a group is known by
    its first exemplar. Entry k is the group that exemplar k leads, entry K any other message (the escape).

    Attributes:
        cells: [K, D].
        counts: [K].
        others: how many messages were none of these.
    """

    def __init__(self, cells: Int, counts: Int, others: int, levels: int, limit: int) -> None:
        if not 0 < len(cells) <= MOST_EXEMPLARS or len(counts) != len(cells) or counts.min() < 1 or others < 0:
            raise ValueError("wanted some exemplars, and a positive count for each")
        if len(np.unique(cells, axis=0)) < len(cells) or np.abs(cells).max() > _edge(levels, limit):
            raise ValueError("exemplars must differ, and be within the limit")
        self.cells, self.counts, self.others = cells, counts, others
        self._levels, self._limit = levels, limit

    @classmethod
    def of(cls, cells: Int, levels: int, limit: int) -> Exemplars | None:
        """The most frequent rows of cells [M, D]; None where most messages are none of them."""
        rows, counts = np.unique(cells, axis=0, return_counts=True)
        listed = np.sort(np.argsort(-counts, kind="stable")[:MOST_EXEMPLARS])
        others = len(cells) - int(counts[listed].sum())
        return None if 2 * others > len(cells) else cls(rows[listed], counts[listed], others, levels, limit)

    def __len__(self) -> int:
        return len(self.cells)

    def messages(self, entries: Int, levels: Int) -> Int:
        """The messages [M, D] of entries [M] other than the escape, under levels [M, D]."""
        return self._quantised(self.cells[entries], levels)

    def entries(self, values: Int, levels: Int) -> Int:
        """The entries [M] of messages [M, D] under levels [M, D]."""
        found = [np.zeros(0, np.int64)]
        for part in parts(len(values)):
            known, ids = self._ids(levels[part]), message_ids(values[part].astype(np.int32))
            first = (known == ids[:, None]).argmax(axis=1)
            same = (self.messages(first, levels[part]) == values[part]).all(axis=1)
            found.append(np.where(same, first, len(self)))
        return np.concatenate(found)

    def groups(self, levels: Int) -> tuple[Int, Int]:
        """Ways to expect messages: frequencies [P, K + 1] of their entries, and which [M] holds under levels [M, D]."""
        places: dict[bytes, int] = {}
        rows = [np.zeros(0, np.int64)]
        for part in parts(len(levels)):
            ids = self._ids(levels[part])
            leaders = (ids[:, :, None] == ids[:, None, :]).argmax(axis=2)
            distinct, which = np.unique(leaders, axis=0, return_inverse=True)
            named = np.array([places.setdefault(row.tobytes(), len(places)) for row in distinct], np.int64)
            rows.append(named[which.ravel()])
        leaders = np.frombuffer(b"".join(places), np.int64).reshape(-1, len(self))
        return self._frequencies(leaders), np.concatenate(rows)

    def _frequencies(self, leaders: Int) -> Int:
        """Frequencies [P, K + 1] of entries, zero for exemplars that lead no group.

        Half an observation for everything; what was not seen is expected as often as what was seen once (Good 1953).
        """
        found = np.zeros((len(leaders), len(self) + 1), np.int64)
        np.add.at(found, (np.arange(len(leaders))[:, None], leaders), 2 * self.counts + 1)
        found[:, -1] = 2 * (int((self.counts == 1).sum()) + self.others) + 1
        return found

    def _quantised(self, cells: Int, levels: Int) -> Int:
        return np.asarray(np.clip((cells + levels) // self._levels, -self._limit, self._limit))

    def _ids(self, levels: Int) -> NDArray[np.uint64]:
        """One number [M, K] for what each exemplar is under levels [M, D]."""
        heard = self._quantised(self.cells, levels[:, None])
        return message_ids(heard.reshape(-1, levels.shape[1]).astype(np.int32)).reshape(len(levels), len(self))


class ConditionalTables:
    """One distribution of signals per dimension, and from it the tables of symbols for every level of the dither.

    With exemplars, a message that is one of them is one entry; any other is the escape entry and then its symbols.

    Symbols are [M, D] int32, levels [M, D] integers in 0 .. L - 1, both in a channel's order of elements.

    Args:
        cells: where training-time signals fell, one histogram per dimension.
        levels: L, of the dither.
        limit: largest magnitude of a symbol.
        exemplars: the whole messages that are known.
    """

    def __init__(
        self, cells: Sequence[Cells], levels: int, limit: int = 2**15 - 1, exemplars: Exemplars | None = None
    ) -> None:
        if not cells:
            raise ValueError("tables need at least one dimension")
        for one in cells:
            one.check(levels, limit)
        self.cells, self.levels, self.limit = tuple(cells), levels, limit
        self.alphabet = Alphabet.signed(len(self.cells), limit)
        self.tables = [Table(one, levels, limit) for one in self.cells]
        self.exemplars = exemplars

    @classmethod
    def fit(
        cls, signals: NDArray[np.floating], levels: int = 64, limit: int = 2**15 - 1, *, joint: bool = False
    ) -> ConditionalTables:
        """Tables from training-time signals z / delta [M, D]; raises `WireError` unless there are some, all finite.

        With `joint`, whole messages are known too where at most 64 of them are the better part of what is said.
        """
        signals = np.asarray(signals, np.float64)
        if signals.ndim != 2 or not signals.size or not np.isfinite(signals).all():
            raise WireError(f"wanted finite signals of shape [messages, D], got shape {list(signals.shape)}")
        edge = _edge(levels, limit)
        cells = np.clip(np.floor(levels * signals + 0.5), -edge, edge).astype(np.int64)
        exemplars = Exemplars.of(cells, levels, limit) if joint else None
        return cls([Cells.of(column) for column in cells.T], levels, limit, exemplars)

    def ideal_bits(self, symbols: Symbols, levels: Int) -> NDArray[np.float64]:
        """-log2 of the tables' shares (and Elias-gamma for escapes), [M]: what a range coder approaches."""
        values, rows = self.check(symbols, levels)
        bits, spelled = np.zeros(len(values)), np.ones(len(values), bool)
        if self.exemplars is not None:
            entries = self.exemplars.entries(values, rows)
            frequencies, which = self.exemplars.groups(rows)
            bits += np.log2(frequencies.sum(axis=1)[which] / frequencies[which, entries])
            spelled = entries == len(self.exemplars)
        for table, column, row in zip(self.tables, values.T, rows.T, strict=True):
            entries = table.entries(column)
            own = TOTAL_BITS - np.log2(table.frequencies[row, entries])
            bits += spelled * (own + (entries == ESCAPE) * GAMMA.lengths(table.escapes(column)[:, None]))
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

    def state(self) -> State:
        """Plain data to store beside a checkpoint."""
        whole = self.exemplars
        return {
            "levels": self.levels,
            "limit": self.limit,
            "cells": [list(one.places) for one in self.cells],
            "counts": [list(one.counts) for one in self.cells],
            "exemplars": None
            if whole is None
            else {"cells": whole.cells.tolist(), "counts": whole.counts.tolist(), "others": whole.others},
        }

    @classmethod
    def from_state(cls, state: State) -> ConditionalTables:
        """The tables of a state; raises `WireError` for what is none."""
        with rebuilding("conditional tables"):
            levels, limit = integers([state["levels"], state["limit"]]).tolist()
            if levels < 1 or limit < 1:
                raise ValueError("levels and limit must be positive")
            pairs = zip(state["cells"], state["counts"], strict=True)
            cells = [
                Cells(tuple(integers(places).tolist()), tuple(integers(counts).tolist())) for places, counts in pairs
            ]
            whole = state["exemplars"]
            exemplars = None if whole is None else _exemplars(whole, len(cells), levels, limit)
            return cls(cells, levels, limit, exemplars)

    @cached_property
    def digest(self) -> str:
        """The hash of the state, from which every table follows."""
        return digest(self.state())


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


def _edge(levels: int, limit: int) -> int:
    """The outermost cell: so far out that the kernel around it reaches clipped symbols only."""
    return levels * limit + len(_KERNEL) // 2


def _exemplars(state: State, size: int, levels: int, limit: int) -> Exemplars:
    rows = [integers(row) for row in state["cells"]]
    if any(len(row) != size for row in rows):
        raise ValueError(f"an exemplar has {size} cells")
    (others,) = integers([state["others"]]).tolist()
    return Exemplars(np.array(rows, np.int64), integers(state["counts"]), others, levels, limit)


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


def parts(messages: int) -> Iterator[slice]:
    """Slices of so many messages that what is expanded for each of them fits the memory."""
    return (slice(first, first + _MESSAGES_AT_ONCE) for first in range(0, messages, _MESSAGES_AT_ONCE))


GAMMA = EliasGammaCode(Alphabet.signed(1).slots)
