"""How many symbols a round needs: min |M| of SolveMinSym (SMS paper, section 3.2), for many rounds at once."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

Objects = NDArray[np.uint8]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_WORDS_AT_ONCE = 2**21  # few enough for the processor's caches


def minimum_symbols(objects: Objects, most: int) -> Ints:
    """The fewest attribute values of each target that no distractor shares all of, [R]; 0 where more than `most`.

    Also 0 where no number will do: a distractor is equal to the target.

    Args:
        objects: [R, K, A], the target first.
        most: the largest number to look for.
    """
    sharing = _sharing(objects)
    minimum = np.zeros(len(objects), np.int64)
    left = np.flatnonzero(~np.bitwise_and.reduce(sharing, axis=1).any(1))
    for size in range(1, min(most, objects.shape[2]) + 1):
        found = _told_apart(sharing[left], size)
        minimum[left[found]] = size
        left = left[~found]
    return minimum


def _sharing(objects: Objects) -> Words:
    """Which distractors share each attribute value of the target: bits of words [R, A, W]."""
    shared = objects[:, 1:] == objects[:, :1]
    octets = np.packbits(shared, axis=1)
    filled = np.zeros((len(objects), objects.shape[2], -(-octets.shape[1] // 8) * 8), np.uint8)
    filled[:, :, : octets.shape[1]] = octets.transpose(0, 2, 1)
    return filled.view(np.uint64)


def _told_apart(sharing: Words, size: int) -> NDArray[np.bool_]:
    """Whether some `size` values of a target are shared by no distractor, [R] of words [R, A, W]."""
    sets = _sets(sharing.shape[1], size)
    rounds = max(_WORDS_AT_ONCE // (len(sets) * sharing.shape[2]), 1)
    found = np.zeros(len(sharing), bool)
    for first in range(0, len(sharing), rounds):
        part = sharing[first : first + rounds]
        by_all = part[:, sets[:, 0]]
        for attribute in sets.T[1:]:
            by_all &= part[:, attribute]
        found[first : first + rounds] = (by_all == 0).all(2).any(1)
    return found


@functools.cache
def _sets(attributes: int, size: int) -> Ints:
    """All sets of `size` attributes, [C, size]."""
    return np.array(list(itertools.combinations(range(attributes), size)))
