"""Frequency tables: integers that sum to 2**16, and the bits that they promise."""

import itertools
import json

import numpy as np
import pytest
from alphabets import all_messages, two_samples
from hypothesis import given, settings
from hypothesis import strategies as st

from marlcomm.wire import Alphabet, Code, Tables, WireError
from marlcomm.wire.fitted import huffman_widths
from marlcomm.wire.tables import MOST_ENTRIES, TOTAL, integer_counts


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 3), st.integers(1, 10**9)), min_size=1, max_size=50))
def test_counts_are_positive_sum_up_and_keep_the_order(weights):
    weights = np.array(weights, np.int64)
    counts = integer_counts(weights)
    assert counts.sum() == TOTAL
    assert (counts >= 1).all()
    for left, right in itertools.permutations(range(len(weights)), 2):
        assert weights[left] <= weights[right] or counts[left] >= counts[right]
    shares = weights * TOTAL / weights.sum()
    if (shares >= 1).all():
        assert (np.abs(counts - shares) < 1).all()


def test_a_table_by_hand():
    symbols = np.repeat([0, 1], [90, 10])[:, None].astype(np.int32)
    (table,) = Tables.fit(Alphabet.signed(1), symbols).slots
    # weights 2 * 90 + 1, 2 * 10 + 1 and, nothing being seen once, 1 for the escape; 65536 / 203 of each, rounded
    assert table.offsets.tolist() == [0, 2]
    assert table.counts.counts.tolist() == [58433, 6780, 323]
    bits = Tables.fit(Alphabet.signed(1), symbols).ideal_bits(np.array([[0], [1], [-4]], np.int32))
    assert bits == pytest.approx([-np.log2(58433 / 65536), -np.log2(6780 / 65536), -np.log2(323 / 65536) + 7])
    (bounded,) = Tables.fit(Alphabet.fixed([4]), symbols).slots
    assert bounded.counts.counts.tolist() == [58147, 6747, 321, 321]  # no escape: all four values are listed


def test_the_escape_expects_as_many_as_were_seen_once():
    symbols = np.concatenate([np.zeros(95, np.int32), np.arange(1, 6, dtype=np.int32)])[:, None]
    (table,) = Tables.fit(Alphabet.signed(1), symbols).slots
    assert table.counts.counts[-1] / TOTAL == pytest.approx((2 * 5 + 1) / (2 * 100 + 6 + 2 * 5 + 1), abs=1e-4)


def test_long_tables_list_the_most_frequent_values():
    rng = np.random.default_rng(0)
    symbols = np.concatenate([np.arange(5000), rng.integers(0, 1000, 20_000)])[:, None].astype(np.int32)
    for alphabet in (Alphabet.signed(1), Alphabet.fixed([5000])):
        tables = Tables.fit(alphabet, symbols)
        (table,) = tables.slots
        assert len(table.counts) == MOST_ENTRIES
        listed = tables.ideal_bits(np.arange(1000, dtype=np.int32)[:, None])
        assert (listed < tables.ideal_bits(np.array([[4999]], np.int32))).all()


def test_the_escape_expects_the_values_that_were_left_out():
    symbols = np.repeat(np.arange(5000, dtype=np.int32), 2)[:, None]
    (table,) = Tables.fit(Alphabet.signed(1), symbols).slots
    escape = 2 * 2 * (5000 - (MOST_ENTRIES - 1)) + 1
    assert table.counts.counts[-1] / TOTAL == pytest.approx(escape / (5 * (MOST_ENTRIES - 1) + escape), rel=0.01)


def test_floats_stay_32_bits():
    symbols = np.zeros((100, 2), np.int32)
    tables = Tables.fit(Alphabet.raw(2), symbols, joint=True)
    assert tables.messages is None
    assert tables.ideal_bits(symbols[:1]).tolist() == [64]


def test_a_joint_table_knows_what_slots_tell_about_each_other():
    rng = np.random.default_rng(0)
    symbols = np.repeat(rng.integers(0, 8, (4000, 1)), 3, axis=1).astype(np.int32)
    alphabet = Alphabet.fixed([8] * 3)
    joint, apart = (Tables.fit(alphabet, symbols[::2], joint=joint) for joint in (True, False))
    assert joint.ideal_bits(symbols[1::2]).mean() == pytest.approx(3, abs=0.02)
    assert apart.ideal_bits(symbols[1::2]).mean() == pytest.approx(9, abs=0.02)
    assert np.isfinite(joint.ideal_bits(np.array([[0, 1, 2]], np.int32))).all()  # never seen: the escape and 9 bits
    many = rng.integers(0, 100, (20_000, 2)).astype(np.int32)
    assert Tables.fit(Alphabet.fixed([100] * 2), many, joint=True).messages is None  # over 4096 different messages


def test_a_joint_table_of_everything_needs_no_escape():
    everything = np.array(list(itertools.product(range(2), repeat=3)), np.int32)
    tables = Tables.fit(Alphabet.fixed([2] * 3), everything, joint=True)
    assert tables.ideal_bits(everything).tolist() == [3] * 8
    assert len(Tables.fit(Alphabet.fixed([2] * 3), everything[1:], joint=True).messages.counts) == 7 + 1


@settings(max_examples=60, deadline=None)
@given(two_samples(), st.booleans())
def test_tables_are_rebuilt_from_what_is_stored(case, joint):
    alphabet, training, later = case
    tables = Tables.fit(alphabet, training, joint=joint)
    again = Tables.from_state(json.loads(json.dumps(tables.state())))
    assert again.digest == tables.digest
    assert np.array_equal(again.ideal_bits(later), tables.ideal_bits(later))
    other = Tables.fit(alphabet, np.concatenate([training, later]), joint=joint)
    assert (other.digest == tables.digest) == (other.state() == tables.state())


@settings(max_examples=60, deadline=None)
@given(two_samples(), st.booleans())
def test_huffman_on_tables_is_the_fitted_code(case, joint):
    alphabet, training, later = case
    code = Code.on_tables(Tables.fit(alphabet, training, joint=joint))
    assert code.digest == Code.fit(alphabet, training, "huffman", joint=joint).digest
    assert np.array_equal(code.decode(code.encode(later)), later)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=60))
def test_huffman_is_within_a_bit_of_the_tables_entropy(weights):
    counts = integer_counts(np.array(weights, np.int64))
    shares = counts / TOTAL
    entropy, mean = -(shares * np.log2(shares)).sum(), (shares * huffman_widths(counts)).sum()
    assert entropy - 1e-9 <= mean < entropy + 1
    assert (2.0 ** -huffman_widths(counts)).sum() == 1


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(
    "alphabet",
    [
        Alphabet.fixed([3, 4]),
        Alphabet.signed(2, 40),
        Alphabet.until_end(5, 3),
        Alphabet.choice([Alphabet.signed(2, 5)]),
    ],
)
def test_the_promised_shares_sum_to_at_most_one(alphabet, joint):
    everything = np.array(list(all_messages(alphabet)), np.int32)
    rng = np.random.default_rng(0)
    for training in (everything[:0], everything[rng.integers(0, len(everything), 40) ** 2 % len(everything)]):
        bits = Tables.fit(alphabet, training, joint=joint).ideal_bits(everything)
        assert (2.0**-bits).sum() <= 1 + 1e-9


@pytest.mark.parametrize("key", ["alphabet", "slots", "messages"])
def test_damaged_states_are_refused(key):
    tables = Tables.fit(Alphabet.fixed([3, 3]), np.zeros((9, 2), np.int32), joint=True)
    for wrong in ({}, [1], "text", {"messages": [[0, 0]], "counts": [0, TOTAL]}):
        with pytest.raises(WireError):
            Tables.from_state({**tables.state(), key: wrong})
    state = tables.state()
    del state[key]
    with pytest.raises(WireError, match="not the state of frequency tables"):
        Tables.from_state(state)
