"""Alphabets of every kind, and messages in them, for hypothesis."""

import itertools

import numpy as np
from hypothesis import strategies as st

from marlcomm.wire import Alphabet, WireError

flat = st.one_of(
    st.lists(st.integers(1, 300), max_size=12).map(Alphabet.fixed),
    st.lists(st.sampled_from([2, 4096, 4097, 2**16, 2**31]), min_size=1, max_size=3).map(Alphabet.fixed),
    st.builds(Alphabet.signed, st.integers(0, 6), st.sampled_from([1, 7, 2**15 - 1, 2**30])),
    st.builds(Alphabet.raw, st.integers(0, 4)),
)
branched = st.one_of(
    st.lists(flat, min_size=1, max_size=4).map(Alphabet.choice),
    st.builds(Alphabet.until_end, st.integers(1, 9), st.integers(0, 5)),
)
alphabets = st.one_of(flat, branched, st.lists(branched, min_size=1, max_size=3).map(Alphabet.choice))


def symbols_of(draw, alphabet, most=20):
    """Up to `most` messages [M, S]; small numbers come often, so that messages repeat."""
    symbols = np.zeros((draw(st.integers(0, most)), alphabet.columns), np.int32)
    for row in symbols:
        for slot in alphabet.slots:
            if slot.used(row[None])[0]:
                low, high = slot.bounds
                row[slot.column] = draw(st.one_of(st.integers(max(low, -2), min(high, 2)), st.integers(low, high)))
    return symbols


@st.composite
def messages(draw):
    """An alphabet and messages."""
    alphabet = draw(alphabets)
    return alphabet, symbols_of(draw, alphabet)


@st.composite
def two_samples(draw):
    """An alphabet, messages of the training time, and later ones (some of them the same)."""
    alphabet = draw(alphabets)
    training, later = symbols_of(draw, alphabet), symbols_of(draw, alphabet, 10)
    return alphabet, training, np.concatenate([later, training[: draw(st.integers(0, 5))]])


def all_messages(alphabet):
    """Every message of a small alphabet."""
    columns = (range(low, high + 1) for low, high in alphabet.bounds)
    for row in itertools.product(*columns):
        try:
            yield alphabet.check(np.array([row], np.int32))[0]
        except WireError:
            continue
