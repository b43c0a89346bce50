"""Entropies of messages, from counts. They are diagnostics: what really decodes is what `Code` and streams write.

Each estimate is of a source whose messages are independent draws. N is the number of messages, K how many different
ones occurred. Only counts add up over runners and rounds; entropies never do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet, Slot, Symbols
from marlcomm.wire.bits import Int

SAMPLES_PER_VALUE = 10
MOST_MISSING_MASS = 0.01
MOST_DIFFERENT = 2**16
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def message_ids(symbols: NDArray[np.integer]) -> NDArray[np.uint64]:
    """One 64-bit number [M] for each message [M, S]; different messages share one with negligible chance."""
    ids = np.zeros(len(symbols), np.uint64)
    for slot in range(symbols.shape[1]):
        ids = (ids ^ symbols[:, slot].astype(np.int64).view(np.uint64)) * _MULTIPLIER
        ids ^= ids >> np.uint64(29)
    return ids


def histogram(symbols: NDArray[np.integer]) -> Counter[int]:
    """How often each message occurs."""
    return _counter(*np.unique(message_ids(symbols), return_counts=True))


Kept = Counter[int] | None
"""A histogram of bounded memory: None once more than 2**16 different messages were seen, in whatever order."""


def kept_histogram(symbols: NDArray[np.integer]) -> Kept:
    """How often each message occurs, where at most 2**16 different ones do."""
    ids, counts = np.unique(message_ids(symbols), return_counts=True)
    return _counter(ids, counts) if len(ids) <= MOST_DIFFERENT else None


def together(first: Kept, second: Kept) -> Kept:
    """The histogram of both, where both were kept and at most 2**16 different messages are in them."""
    if first is None or second is None:
        return None
    both = first + second
    return both if len(both) <= MOST_DIFFERENT else None


def _counter(ids: NDArray[np.uint64], counts: NDArray[np.int64]) -> Counter[int]:
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def plug_in_entropy(counts: Iterable[int]) -> float:
    """Entropy in bits of the empirical distribution.

    Biased low by about (K - 1) / (2 N ln 2); its spread is `sampling_error`.
    """
    numbers = np.fromiter(counts, np.float64)
    if not len(numbers):
        return 0.0
    shares = numbers / numbers.sum()
    return float(0.0 - (shares * np.log2(shares)).sum())  # of one value 0, not -0


def sampling_error(counts: Iterable[int]) -> float:
    """Standard error in bits of the plug-in and Miller-Madow entropies: deviation of -log2 p over sqrt(N)."""
    numbers = np.fromiter(counts, np.float64)
    if not len(numbers):
        return 0.0
    shares = numbers / numbers.sum()
    surprise = -np.log2(shares)
    spread = (shares * surprise**2).sum() - (shares * surprise).sum() ** 2
    return float(np.sqrt(max(spread, 0.0) / numbers.sum()))


def miller_madow_entropy(counts: Iterable[int]) -> float:
    """Plug-in entropy in bits plus (K - 1) / (2 N ln 2), its bias to first order (Miller 1955).

    It can exceed what is possible: the log of the number of messages, or an estimate of the factored entropy.
    """
    numbers = list(counts)
    if not numbers:
        return 0.0
    return plug_in_entropy(numbers) + (len(numbers) - 1) / (2 * sum(numbers) * math.log(2))


def missing_mass(counts: Iterable[int]) -> float:
    """Probability that the next message is one never seen: N1 / N, N1 of the K having occurred once (Good 1953)."""
    numbers = np.fromiter(counts, np.int64)
    return float((numbers == 1).sum() / numbers.sum()) if len(numbers) else 1.0


def missing_mass_error(counts: Iterable[int]) -> float:
    """Standard error of `missing_mass`: sqrt(N1 (1 - N1 / N) + 2 N2) / N (Esty 1983)."""
    numbers = np.fromiter(counts, np.int64)
    if not len(numbers):
        return 1.0
    total, once, twice = numbers.sum(), (numbers == 1).sum(), (numbers == 2).sum()
    return float(np.sqrt(once * (1 - once / total) + 2 * twice) / total)


def kt_bits(counts: Iterable[int], values: int) -> float:
    """Bits of N symbols under the adaptive code of Krichevsky and Trofimov (1981), whatever their order.

    Both ends start from half an observation of each of A = `values` symbols and count along: no table is sent. The
    length is at least N times the plug-in entropy, and at most that plus (A - 1) / 2 log2 N + log2 A.
    """
    numbers = list(counts)
    every = math.lgamma(sum(numbers) + values / 2) - math.lgamma(values / 2)
    each = sum(math.lgamma(number + 0.5) - math.lgamma(0.5) for number in numbers)
    return (every - each) / math.log(2)


def slot_counts(alphabet: Alphabet, symbols: Symbols) -> Iterator[tuple[Slot, Int]]:
    """Each slot and how often each of its values occurred, among the messages [M, S] that hold it."""
    for slot in alphabet.slots:
        column = symbols[slot.used(symbols), slot.column]
        yield slot, np.unique(column, return_counts=True)[1].astype(np.int64)


def factored_entropy(alphabet: Alphabet, symbols: Symbols) -> float:
    """Bits per message [M, S] if slots told nothing about each other: plug-in entropies of slots, summed.

    A slot counts as often as it is on the wire. At least the plug-in entropy of whole messages, at most their nominal
    bits; the first gap is the total correlation.
    """
    return _factored((counts.tolist() for _, counts in slot_counts(alphabet, symbols)), len(symbols))


def _factored(slots: Iterable[Collection[int]], messages: int) -> float:
    """Bits per message of slots whose values occurred so often."""
    return sum(plug_in_entropy(counts) * sum(counts) for counts in slots) / max(messages, 1)


def factored_kt_bits(alphabet: Alphabet, symbols: Symbols) -> float:
    """Bits of all messages [M, S] under an adaptive code for each slot (see `kt_bits`)."""
    return sum(kt_bits(counts.tolist(), slot.size) for slot, counts in slot_counts(alphabet, symbols))


def conditional_entropy(before: Symbols, symbols: Symbols) -> float:
    """Plug-in H(m_t | m_{t-1}) in bits, of messages [M, S] and the one before each, [M, S].

    Biased low by about (K of pairs - K of single messages) / (2 N ln 2). At most the plug-in entropy of `symbols`.
    """
    pairs = histogram(np.concatenate([before, symbols], axis=1))
    return plug_in_entropy(pairs.values()) - plug_in_entropy(histogram(before).values())


def before_each(sent: NDArray[np.bool_]) -> Int:
    """Where the message before each stands among the messages sent in [B, T, N], [M]; -1 for a sender's first.

    Messages are numbered as ``symbols[sent]`` gives them; the one before is its sender's last in the same episode.
    """
    worlds, steps, senders = np.nonzero(sent)
    order = np.lexsort((steps, senders, worlds))
    same = (np.diff(worlds[order]) == 0) & (np.diff(senders[order]) == 0)
    found = np.full(len(order), -1)
    found[order[1:][same]] = order[:-1][same]
    return found


def estimable(counts: Counter[int]) -> bool:
    """Whether an entropy may be printed: ten samples for each value seen, and less than 1 % likely to be unseen."""
    enough = counts.total() >= SAMPLES_PER_VALUE * max(len(counts), 1)
    return enough and missing_mass(counts.values()) < MOST_MISSING_MASS


class Tally:
    """Counts of messages, part by part: of each slot's values, and of pairs of a message and the one before it.

    What `BandwidthMeter` counts, whole messages, is not counted again.

    Args:
        alphabet: of the messages.
    """

    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self.messages = 0
        self._slots: list[Kept] = [Counter() for _ in alphabet.slots]
        self._first: Kept = Counter()
        self._pairs: Kept = Counter()

    def add(self, symbols: Symbols, before: Int | None = None) -> None:
        """Count messages [M, S]; `before` says where the message before each stands among them (see `before_each`)."""
        self.messages += len(symbols)
        for place, slot in enumerate(self.alphabet.slots):
            column = symbols[slot.used(symbols), slot.column]
            self._slots[place] = together(self._slots[place], kept_histogram(column[:, None]))
        if before is not None:
            later, first = symbols[before >= 0], symbols[before[before >= 0]]
            self._first = together(self._first, kept_histogram(first))
            self._pairs = together(self._pairs, kept_histogram(np.concatenate([first, later], axis=1)))

    def figures(self) -> dict[str, float]:
        """By the names of the glossary; those that are not estimable, or whose counts were not kept, are left out."""
        figures = {}
        slots = [counts for counts in self._slots if counts is not None]
        if len(slots) == len(self._slots):
            pairs = zip(slots, self.alphabet.slots, strict=True)
            bits = sum(kt_bits(counts.values(), slot.size) for counts, slot in pairs)
            figures["adaptive_bits_per_message"] = bits / max(self.messages, 1)
            if self.messages and all(estimable(counts) for counts in slots if counts):
                figures["factored_entropy_bits_per_message"] = _factored((c.values() for c in slots), self.messages)
        if self.alphabet.has_selector and self._slots[0] and estimable(self._slots[0]):
            figures["selector_entropy_bits_per_message"] = plug_in_entropy(self._slots[0].values())
        if self._first is not None and self._pairs is not None and estimable(self._pairs):
            conditional = plug_in_entropy(self._pairs.values()) - plug_in_entropy(self._first.values())
            figures["conditional_entropy_bits_per_message"] = conditional
        return figures


def entropies(alphabet: Alphabet, symbols: Symbols, before: Int | None = None) -> dict[str, float]:
    """Figures per message [M, S] by the names of the glossary; those that are not estimable are left out.

    Args:
        alphabet: of the messages.
        symbols: all messages of an evaluation.
        before: where the message before each stands (see `before_each`); without it nothing is conditional.
    """
    tally = Tally(alphabet)
    tally.add(symbols, before)
    return tally.figures() | joint_figures(histogram(symbols))


def joint_figures(counts: Counter[int]) -> dict[str, float]:
    """What the histogram of whole messages tells."""
    figures = {"distinct_messages": float(len(counts)), "missing_mass": missing_mass(counts.values())}
    if estimable(counts):
        figures["joint_entropy_bits_per_message"] = plug_in_entropy(counts.values())
        figures["corrected_joint_entropy_bits_per_message"] = miller_madow_entropy(counts.values())
    return figures
