"""A learned factorised prior: for each slot a smooth distribution instead of a bare frequency table.

After Balle et al. (2018), who learn the distribution of each latent number by gradient, beside their autoencoder. Here
it is fitted afterwards, on messages of the training time, so nobody's gradient sees it. A slot's distribution is a
mixture: discretised logistic distributions of given centres and scales (for numbers that are ordered), the uniform one,
and the frequencies themselves. Components being given, the log-likelihood is concave in their weights, and EM climbs it
in closed form: no step size, one start, numpy alone. So that the frequencies do not explain everything away, they are
taken without the message that is to be explained (deleted interpolation, Jelinek and Mercer 1980): few messages lean on
the smooth components, many on the frequencies.

The mixture is rounded once, to a `SlotTable` of integers: what is stored, hashed, decoded by and escaped from is a
table like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet, Slot, Symbols, from_offsets, to_offsets
from marlcomm.wire.bits import Int
from marlcomm.wire.fitted import HuffmanCode
from marlcomm.wire.tables import MOST_ENTRIES, TOTAL, Counts, SlotTable, Tables, integer_counts, slot_offsets

Floats = NDArray[np.float64]
_ROUNDS = 200
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the messages: the centres of the logistic components
_FINEST = 0.25  # their smallest scale, in steps of the symbol; each next one is twice as wide
_PRIOR = 0.5  # observations that all components share before there are any, and as many of the uniform one
_MARGIN = 16
_MOST_VALUES = 2**16
_UNIT = 2**32  # integer weights of a share of one


class LearnedCode(HuffmanCode):
    """The shortest prefix code for a learned prior of each slot; all else is Huffman's code of frequency tables."""

    name = "learned"

    @classmethod
    def fit(cls, slots: tuple[Slot, ...], offsets: Int) -> Self:
        return cls(slots, [learned_table(slot, column) for slot, column in zip(slots, offsets.T, strict=True)])


def learned_tables(alphabet: Alphabet, symbols: Symbols) -> Tables:
    """Tables of a learned prior for messages [M, S] of the training time."""
    values = alphabet.check(symbols)
    tables = (learned_table(slot, slot_offsets(slot, values[slot.used(values)])) for slot in alphabet.slots)
    return Tables(alphabet, tuple(tables))


def learned_table(slot: Slot, offsets: Int) -> SlotTable:
    """The table for offsets [M'] of the messages that hold the slot; of floats, and of no messages, the plain one."""
    if slot.kind == "raw" or not len(offsets):
        return SlotTable.fit(slot, offsets)
    plain = replace(slot, column=0)
    mixture = _Mixture(plain, *np.unique(from_offsets((plain,), offsets[:, None])[:, 0], return_counts=True))
    values, shares = mixture.listed()
    places = to_offsets((plain,), values[:, None])[:, 0]
    order = np.argsort(places)
    weights = shares[order]
    if not mixture.is_small:  # the escape stands for everything else
        weights = np.append(weights, max(1 - shares.sum(), 0.0))
    counts = integer_counts(1 + np.rint(_UNIT * weights).astype(np.int64))
    return SlotTable(slot, places[order], Counts(counts, len(values)))


@dataclass(frozen=True)
class _Mixture:
    """The distribution of one slot.

    Attributes:
        slot: whose symbols they are.
        seen: the K values of the training time, ascending.
        counts: how often each came, [K].
    """

    slot: Slot
    seen: Int
    counts: Int

    @property
    def is_small(self) -> bool:
        """Whether a table lists all values, as the plain one does."""
        return self.slot.kind == "fixed" and self.slot.size <= MOST_ENTRIES

    def listed(self) -> tuple[Int, Floats]:
        """Values ascending and their shares: all of a small slot, else those that are worth an entry."""
        values = self._candidates()
        shares = self._shares(values)
        if self.is_small:
            return values, shares
        likeliest = np.argsort(-shares, kind="stable")[: MOST_ENTRIES - 1]
        kept = np.sort(likeliest[shares[likeliest] * TOTAL >= 0.5])
        return values[kept], shares[kept]

    def _candidates(self) -> Int:
        """The values of a small slot; of others those seen and as far again on both sides, at most 2**16."""
        low, high = self.slot.bounds
        if self.is_small:
            return np.arange(low, high + 1)
        margin, middle = self._span + _MARGIN, int(self._centres[len(self._centres) // 2])
        first = max(low, int(self.seen[0]) - margin, middle - _MOST_VALUES // 2)
        return np.arange(first, min(high + 1, int(self.seen[-1]) + margin + 1, first + _MOST_VALUES))

    def _shares(self, values: Int) -> Floats:
        """The probability of values [V]."""
        among = np.searchsorted(values, self.seen)
        there = (among < len(values)) & (values[np.minimum(among, len(values) - 1)] == self.seen)
        frequencies = np.zeros(len(values))
        frequencies[among[there]] = self.counts[there] / self.counts.sum()
        return np.asarray(self._smooth(values) @ self._weights[:-1] + frequencies * self._weights[-1])

    @cached_property
    def _weights(self) -> Floats:
        """Of the components, the uniform one first, the frequencies last: EM on what was seen (at most 4096 values)."""
        some = slice(None, None, -(-len(self.seen) // MOST_ENTRIES))
        seen, counts = self.seen[some], self.counts[some]
        others = (counts - 1) / max(int(self.counts.sum()) - 1, 1)
        shares = np.column_stack([self._smooth(seen), others])
        weights = np.full(shares.shape[1], 1 / shares.shape[1])
        before = _PRIOR * weights
        before[0] += _PRIOR
        for _ in range(_ROUNDS):
            parts = shares * weights
            weights = before + counts @ (parts / parts.sum(axis=1, keepdims=True))
            weights /= weights.sum()
        return weights

    @property
    def _span(self) -> int:
        return int(self.seen[-1] - self.seen[0])

    @cached_property
    def _centres(self) -> Int:
        places = np.searchsorted(np.cumsum(self.counts), np.array(_QUANTILES) * self.counts.sum())
        return np.unique(self.seen[places])

    def _smooth(self, values: Int) -> Floats:
        """Shares [V, C] of values under the uniform component and the logistic ones."""
        scales = _FINEST * 2.0 ** np.arange(self._span.bit_length() + 2)
        away = np.abs(values[:, None] - self._centres)[..., None]  # symmetric, and differences of tails are exact
        logistic = _sigmoid((0.5 - away) / scales) - _sigmoid((-0.5 - away) / scales)
        return np.column_stack([np.full(len(values), 1 / self.slot.size), logistic.reshape(len(values), -1)])


def _sigmoid(numbers: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(np.minimum(-numbers, 700.0))))
