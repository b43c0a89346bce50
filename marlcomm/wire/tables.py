"""Integer frequency tables: what is known about messages before they are sent, frozen and the same at both ends.

Counts are integers that sum to 2**16, fitted once on messages of the training time. They are stored beside the
checkpoint and known by their hash: probabilities that a network computes in floats differ in the last digit between
machines, and one wrong digit breaks a decoder.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet, Slot, Symbols, to_offsets
from marlcomm.wire.bits import Int
from marlcomm.wire.entropy import message_ids
from marlcomm.wire.groups import EliasGammaCode, FixedLengthCode, GroupCode
from marlcomm.wire.state import State, digest, integers, rebuilding

TOTAL = 2**16
MOST_ENTRIES = 4096


def integer_counts(weights: Int) -> Int:
    """Counts [K] of at least 1 that sum to 2**16, in proportion to positive weights [K] as far as that goes.

    Only integers are used, so every machine gets the same table. What rounding leaves goes to the largest remainders,
    and to the first of equal ones.
    """
    rare = np.zeros(len(weights), bool)
    while True:  # an entry whose share is below 1 gets 1, the others divide what is left
        share, total = TOTAL - int(rare.sum()), int(weights[~rare].sum())
        more = ~rare & (weights * share < total)
        if not more.any():
            break
        rare |= more
    counts = np.where(rare, 1, weights * share // total)
    remainders = np.where(rare, -1, weights * share % total)
    counts[np.argsort(-remainders, kind="stable")[: TOTAL - counts.sum()]] += 1
    return np.asarray(counts)


class Counts:
    """The counts of K known things and, where there can be others, of all of those together (the escape).

    Args:
        counts: [K], or [K + 1] with the escape last; at least 1 each, summing to 2**16.
        known: K.
    """

    def __init__(self, counts: Int, known: int) -> None:
        if len(counts) not in (known, known + 1) or (counts < 1).any() or counts.sum() != TOTAL:
            raise ValueError(f"wanted {known} or {known + 1} counts of at least 1 that sum to {TOTAL}")
        self.counts = counts
        self.known = known

    def __len__(self) -> int:
        return len(self.counts)

    def bits(self, entries: Int) -> NDArray[np.float64]:
        """-log2 of the share of each entry."""
        return np.log2(TOTAL / self.counts[entries])

    @staticmethod
    def of(seen: Int, unlisted: int = 0, *, open_ended: bool) -> Counts:
        """Counts for K things seen so often, [K]; with an escape where others may come.

        The estimate is Krichevsky and Trofimov's: half an observation for everything. What was not seen is expected
        as often as what was seen once (Good 1953), beside the `unlisted` observations.
        """
        weights = 2 * seen + 1
        if open_ended:
            weights = np.append(weights, 2 * (int((seen == 1).sum()) + unlisted) + 1)
        return Counts(integer_counts(weights), len(seen))


class SlotTable:
    """How often each value of a slot is expected, in messages where the slot is on the wire.

    A bounded slot of at most 4096 values lists all of them. Any other slot lists the most frequent values seen, and
    has an escape entry: an unlisted value follows by a code without statistics (Elias-gamma for signed integers,
    fixed length for others).

    Args:
        slot: the slot.
        offsets: the K listed values as offsets (see `to_offsets`), ascending.
        counts: [K], or [K + 1] with the escape last.
    """

    def __init__(self, slot: Slot, offsets: Int, counts: Counts) -> None:
        ascending = (np.diff(offsets) > 0).all() and (not len(offsets) or 0 <= offsets[0] <= offsets[-1] < slot.size)
        if counts.known != len(offsets) or not ascending:
            raise ValueError(f"the values of slot {slot.column} must ascend within 0..{slot.size - 1}")
        if len(offsets) < slot.size and len(counts) == counts.known:
            raise ValueError(f"slot {slot.column} has {slot.size} values: a table of {len(offsets)} needs an escape")
        self.slot = slot
        self.offsets = offsets
        self.counts = counts
        self.tail: GroupCode = EliasGammaCode((slot,)) if slot.kind == "signed" else FixedLengthCode((slot,))

    @classmethod
    def fit(cls, slot: Slot, offsets: Int) -> SlotTable:
        """The table for offsets [M'] of the messages that hold the slot; uniform where there are none."""
        if slot.kind == "fixed" and slot.size <= MOST_ENTRIES:
            return cls(
                slot, np.arange(slot.size), Counts.of(np.bincount(offsets, minlength=slot.size), open_ended=False)
            )
        values, seen = np.unique(offsets, return_counts=True)
        if slot.kind == "raw":  # hardly two floats are equal: whatever repeats in a sample is no promise
            values, seen = values[:0], seen[:0]
        listed = np.sort(np.argsort(-seen, kind="stable")[: MOST_ENTRIES - 1])
        counts = Counts.of(seen[listed], int(seen.sum() - seen[listed].sum()), open_ended=True)
        return cls(slot, values[listed].astype(np.int64), counts)

    def entries(self, offsets: Int) -> Int:
        """The entry of each offset [M'], K for those that are not listed."""
        return _positions(self.offsets, offsets)

    def ideal_bits(self, offsets: Int) -> NDArray[np.float64]:
        """-log2 of the table's share of each offset [M'], and the tail's bits of those that are not listed."""
        entries = self.entries(offsets)
        escaped = entries == self.counts.known
        return self.counts.bits(entries) + np.where(escaped, self.tail.lengths(offsets[:, None]), 0)

    def state(self) -> State:
        return {"offsets": self.offsets.tolist(), "counts": self.counts.counts.tolist()}

    @classmethod
    def from_state(cls, slot: Slot, state: State) -> SlotTable:
        offsets = integers(state["offsets"])
        return cls(slot, offsets, Counts(integers(state["counts"]), len(offsets)))


class MessageTable:
    """How often each of K whole messages is expected; the escape entry stands for all others, where there are any.

    Args:
        alphabet: of the messages.
        messages: [K, S], all different.
        counts: [K], or [K + 1] with the escape last.
    """

    def __init__(self, alphabet: Alphabet, messages: Int, counts: Counts) -> None:
        self._ids = message_ids(messages)
        self._order = np.argsort(self._ids, kind="stable")
        if counts.known != len(messages) or len(np.unique(self._ids)) != len(messages):
            raise ValueError("wanted different messages, and a count for each")
        if not _is_everything(alphabet, len(messages)) and len(counts) == counts.known:
            raise ValueError("a table that lacks some messages of its alphabet needs an escape")
        self.messages = messages
        self.counts = counts

    @classmethod
    def fit(cls, alphabet: Alphabet, symbols: Int) -> MessageTable | None:
        """The table for messages [M, S]; None where it cannot gain: one slot, floats, or over 4096 messages seen."""
        if len(alphabet.slots) < 2 or alphabet.has_raw:
            return None
        _, first, seen = np.unique(message_ids(symbols), return_index=True, return_counts=True)
        if not 0 < len(seen) <= MOST_ENTRIES:
            return None
        return cls(alphabet, symbols[first], Counts.of(seen, open_ended=not _is_everything(alphabet, len(seen))))

    def entries(self, symbols: Int) -> Int:
        """The entry of each message of [M, S], K for those that are not listed."""
        at = _positions(self._ids[self._order], message_ids(symbols))
        entries = np.append(self._order, self.counts.known)[at]
        listed = np.append(self.messages, np.zeros((1, symbols.shape[1]), np.int64), axis=0)
        same = (listed[entries] == symbols).all(axis=1)  # two messages may share an id, if hardly ever
        return np.where(same, entries, self.counts.known)

    def state(self) -> State:
        return {"messages": self.messages.tolist(), "counts": self.counts.counts.tolist()}

    @classmethod
    def from_state(cls, alphabet: Alphabet, state: State) -> MessageTable:
        rows = [integers(row) for row in state["messages"]]
        messages = alphabet.check(np.stack(rows))
        return cls(alphabet, messages, Counts(integers(state["counts"]), len(messages)))


class Tables:
    """A table for each slot of an alphabet and, before them, possibly one for whole messages.

    With a message table, a message that it lists is one entry; any other is the escape entry and then its slots.

    Args:
        alphabet: of the messages.
        slots: a table for each slot.
        messages: the table of whole messages.
    """

    def __init__(self, alphabet: Alphabet, slots: tuple[SlotTable, ...], messages: MessageTable | None = None) -> None:
        self.alphabet = alphabet
        self.slots = slots
        self.messages = messages

    @classmethod
    def fit(cls, alphabet: Alphabet, symbols: Symbols, *, joint: bool = False) -> Self:
        """Tables for messages [M, S] of the training time.

        With `joint`, whole messages get a table where at most 4096 different ones were seen: what one slot tells
        about another then costs nothing.
        """
        values = alphabet.check(symbols)
        tables = (SlotTable.fit(slot, slot_offsets(slot, values[slot.used(values)])) for slot in alphabet.slots)
        return cls(alphabet, tuple(tables), MessageTable.fit(alphabet, values) if joint else None)

    def ideal_bits(self, symbols: Symbols) -> NDArray[np.float64]:
        """Bits [M] of messages [M, S] under an ideal coder: -log2 of the tables' shares, plus what follows escapes."""
        values = self.alphabet.check(symbols)
        bits, spelled = np.zeros(len(values)), np.ones(len(values), bool)
        if self.messages is not None:
            entries = self.messages.entries(values)
            bits += self.messages.counts.bits(entries)
            spelled = entries == self.messages.counts.known
        for table in self.slots:
            rows = spelled & table.slot.used(values)
            bits[rows] += table.ideal_bits(slot_offsets(table.slot, values[rows]))
        return bits

    def state(self) -> State:
        """Plain JSON data that rebuilds the tables."""
        return {
            "alphabet": self.alphabet.state(),
            "slots": [table.state() for table in self.slots],
            "messages": None if self.messages is None else self.messages.state(),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The tables that `state` describes; raises `WireError` where it describes none."""
        with rebuilding("frequency tables"):
            alphabet, whole = Alphabet.from_state(state["alphabet"]), state["messages"]
            pairs = zip(alphabet.slots, state["slots"], strict=True)
            slots = tuple(SlotTable.from_state(slot, part) for slot, part in pairs)
            return cls(alphabet, slots, None if whole is None else MessageTable.from_state(alphabet, whole))

    @cached_property
    def digest(self) -> str:
        """The hash by which both ends know that they hold the same tables."""
        return digest(self.state())


def slot_offsets(slot: Slot, symbols: Int) -> Int:
    """The offsets [M] of one slot in messages [M, S] that all hold it."""
    return to_offsets((slot,), symbols)[:, 0]


def _is_everything(alphabet: Alphabet, messages: int) -> bool:
    """Whether so many different messages are all that an alphabet has (of those without conditions)."""
    return not alphabet.conditional and messages == math.prod(slot.size for slot in alphabet.slots)


def _positions(ascending: NDArray[np.integer], wanted: NDArray[np.integer]) -> Int:
    """Where each wanted number stands among K ascending ones; K where it does not."""
    if not len(ascending):
        return np.zeros(len(wanted), np.int64)
    at = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return np.where(ascending[at] == wanted, at, len(ascending))
