"""Entropies of messages, from counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_VALUE = 10
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def message_ids(symbols: NDArray[np.integer]) -> NDArray[np.uint64]:
    """One 64-bit number [M] for each message [M, S]; different messages share one with negligible chance."""
    ids = np.zeros(len(symbols), np.uint64)
    for slot in range(symbols.shape[1]):
        ids = (ids ^ symbols[:, slot].astype(np.int64).view(np.uint64)) * _MULTIPLIER
        ids ^= ids >> np.uint64(29)
    return ids


def histogram(symbols: NDArray[np.int32]) -> Counter[int]:
    """How often each message occurs."""
    ids, counts = np.unique(message_ids(symbols), return_counts=True)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def plug_in_entropy(counts: Iterable[int]) -> float:
    """Entropy in bits of the empirical distribution; biased low by about (values - 1) / (2 N ln 2)."""
    numbers = np.fromiter(counts, np.float64)
    if not len(numbers):
        return 0.0
    shares = numbers / numbers.sum()
    return float(-(shares * np.log2(shares)).sum())


def estimable(counts: Counter[int]) -> bool:
    """Whether there are samples enough for the plug-in estimate: ten for each observed value."""
    return counts.total() >= SAMPLES_PER_VALUE * max(len(counts), 1)
