"""Entropies: what always holds on one sample, and what holds on sources of known entropy."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from alphabets import two_samples
from hypothesis import given, settings
from hypothesis import strategies as st

from marlcomm.wire import CODES, Alphabet, Code, Tables
from marlcomm.wire.entropy import (
    before_each,
    conditional_entropy,
    entropies,
    estimable,
    factored_entropy,
    factored_kt_bits,
    histogram,
    kt_bits,
    message_ids,
    miller_madow_entropy,
    missing_mass,
    missing_mass_error,
    plug_in_entropy,
    sampling_error,
    slot_counts,
)

SLACK = 1e-6  # of float sums, relative


@st.composite
def samples(draw):
    """An alphabet and a sample in which messages repeat."""
    alphabet, first, more = draw(two_samples())
    pool = np.concatenate([first, more])
    picks = draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=60)) if len(pool) else []
    return alphabet, pool[picks]


@settings(max_examples=80, deadline=None)
@given(samples())
def test_what_always_holds_on_one_sample(case):
    alphabet, symbols = case
    messages = len(symbols)
    joint, factored = plug_in_entropy(histogram(symbols).values()), factored_entropy(alphabet, symbols)
    nominal = alphabet.nominal_bits(symbols).sum()
    assert joint <= factored + SLACK
    assert messages * factored <= nominal + SLACK * (1 + nominal)
    adaptive = factored_kt_bits(alphabet, symbols)
    room = sum(
        (slot.size - 1) / 2 * math.log2(counts.sum()) + math.log2(slot.size)
        for slot, counts in slot_counts(alphabet, symbols)
        if len(counts)
    )
    assert messages * factored <= adaptive + SLACK * (1 + adaptive)
    assert adaptive <= messages * factored + room + SLACK * (1 + room)
    if messages > 1:
        present = plug_in_entropy(histogram(symbols[1:]).values())
        assert conditional_entropy(symbols[:-1], symbols[1:]) <= present + SLACK


@settings(max_examples=60, deadline=None)
@given(samples(), st.sampled_from(sorted(CODES)))
def test_no_static_prefix_code_is_below_the_entropy(case, name):
    """Not even one that was fitted on the very messages that it is measured on."""
    alphabet, symbols = case
    factored, joint = factored_entropy(alphabet, symbols), plug_in_entropy(histogram(symbols).values())
    assert Code.fit(alphabet, symbols, name).lengths(symbols).sum() >= len(symbols) * factored - SLACK
    assert Tables.fit(alphabet, symbols).ideal_bits(symbols).sum() >= len(symbols) * factored - SLACK
    both = Code.fit(alphabet, symbols, name, joint=True), Tables.fit(alphabet, symbols, joint=True)
    assert both[0].lengths(symbols).sum() >= len(symbols) * joint - SLACK
    assert both[1].ideal_bits(symbols).sum() >= len(symbols) * joint - SLACK


SOURCES = {
    "certain": np.array([1.0]),
    "coin": np.array([0.5, 0.5]),
    "goals": np.array([200, 100, 50, 25, 12, 1]) / 388,
    "uniform": np.full(64, 1 / 64),
    "geometric": 0.7 * 0.3 ** np.arange(12) / (1 - 0.3**12),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("messages", [200, 20_000])
def test_estimators_on_sources_of_known_entropy(name, messages):
    """Corrected within four standard errors, plug-in too low by its bias; on the mean of 100 samples."""
    shares = SOURCES[name]
    truth = -(shares * np.log2(shares)).sum()
    rng = np.random.default_rng(len(shares) + messages)
    drawn = [row[row > 0].tolist() for row in rng.multinomial(messages, shares, size=100)]
    error = np.sqrt(np.mean([sampling_error(row) ** 2 for row in drawn]))
    corrected, plain = ([estimate(row) for row in drawn] for estimate in (miller_madow_entropy, plug_in_entropy))
    bias = (len(shares) - 1) / (2 * messages * math.log(2))
    second_order = 3 * bias**2 + 1e-12  # what Miller-Madow leaves
    assert (np.abs(np.array(corrected) - truth) <= 4 * error + bias + second_order).all()
    assert np.mean(corrected) == pytest.approx(truth, abs=4 * error / 10 + bias / 4 + second_order)
    assert np.mean(plain) == pytest.approx(truth - bias, abs=4 * error / 10 + bias / 4 + second_order)
    if name == "uniform":
        assert np.mean(plain) < truth - bias / 2
    elif name != "certain":
        assert np.std(plain) == pytest.approx(error, rel=0.35, abs=2 * bias)


@pytest.mark.parametrize("messages", [500, 20_000])
def test_missing_mass_of_a_heavy_tail(messages):
    shares = 1 / np.arange(1, 5001)
    shares /= shares.sum()
    rng = np.random.default_rng(messages)
    wrong = []
    for _ in range(50):
        counts = rng.multinomial(messages, shares)
        seen = counts[counts > 0].tolist()
        wrong.append((missing_mass(seen) - shares[counts == 0].sum()) / missing_mass_error(seen))
    assert np.abs(wrong).max() < 4.5
    assert abs(np.mean(wrong)) < 4 / math.sqrt(50)
    assert 0.5 < np.std(wrong) < 1.5


def test_conditional_entropy_of_a_chain():
    """A symbol stays with probability 0.9, else moves to one of the other three: H = h(0.1) + 0.1 log2 3."""
    rng = np.random.default_rng(0)
    moves = np.where(rng.random(50_000) < 0.9, 0, rng.integers(1, 4, 50_000))
    symbols = (np.cumsum(moves) % 4)[:, None].astype(np.int32)
    truth = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1) + 0.1 * math.log2(3)
    pairs = histogram(np.concatenate([symbols[:-1], symbols[1:]], axis=1)).values()
    error = sampling_error(pairs) + sampling_error(histogram(symbols).values())
    assert conditional_entropy(symbols[:-1], symbols[1:]) == pytest.approx(truth, abs=4 * error)
    assert error < 0.02
    assert plug_in_entropy(histogram(symbols).values()) == pytest.approx(2, abs=0.01)


def test_conditional_entropy_is_of_messages_that_have_one_before():
    """A first message that is always the same lowers the joint figure alone: the conditional one may stand above it."""
    sent = np.ones((200, 2, 1), bool)  # two messages of one sender: 0, then 0 or 1
    symbols = np.stack([np.zeros(200), np.arange(200) % 2], axis=1).reshape(-1, 1).astype(np.int32)
    figures = entropies(Alphabet.fixed([2]), symbols, before_each(sent))
    assert figures["conditional_entropy_bits_per_message"] == pytest.approx(1)
    assert figures["joint_entropy_bits_per_message"] == pytest.approx(-0.75 * math.log2(0.75) - 0.25 * math.log2(0.25))


def test_factored_entropy_of_conditional_slots():
    """A selector of 1 bit, then nothing or 3 bits: 1 + 1/2 * 3 bits a message; the copy is not known to be one."""
    alphabet = Alphabet.choice([Alphabet.fixed([]), Alphabet.fixed([8, 8])])
    halves = [[0, 0, 0]] * 8 + [[1, k, k] for k in range(8)]
    symbols = np.array(halves * 10, np.int32)
    assert factored_entropy(alphabet, symbols) == pytest.approx(1 + 0.5 * (3 + 3))
    assert plug_in_entropy(histogram(symbols).values()) == pytest.approx(1 + 0.5 * 3)


def test_kt_is_what_counting_along_costs():
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 4, 300) ** 2 % 5
    seen, bits = Counter(), 0.0
    for number, symbol in enumerate(symbols.tolist()):
        bits -= math.log2((seen[symbol] + 0.5) / (number + 5 / 2))
        seen[symbol] += 1
    assert kt_bits(seen.values(), 5) == pytest.approx(bits)
    assert kt_bits([], 5) == 0
    assert kt_bits([1], 8) == pytest.approx(3)


def test_entropy_is_withheld_where_it_cannot_be_known():
    few, enough = np.arange(20, dtype=np.int32) % 4, np.arange(40, dtype=np.int32) % 4
    assert not estimable(histogram(few[:, None]))
    assert estimable(histogram(enough[:, None]))
    assert plug_in_entropy(histogram(enough[:, None]).values()) == pytest.approx(2.0)
    assert not estimable(Counter())
    # ten samples a value, but one value in a hundred messages was new: 1 % are missing
    assert not estimable(Counter({0: 50, 1: 49, 2: 1}))
    assert estimable(Counter({0: 50, 1: 50, 2: 1}))


def test_nothing_is_invented_for_nothing():
    assert plug_in_entropy([]) == miller_madow_entropy([]) == sampling_error([]) == 0
    assert str(plug_in_entropy([7])) == "0.0"  # nor a sign, where all say the same
    assert missing_mass([]) == missing_mass_error([]) == 1
    nothing = np.zeros((0, 2), np.int32)
    assert entropies(Alphabet.fixed([3, 3]), nothing) == {
        "adaptive_bits_per_message": 0,
        "distinct_messages": 0,
        "missing_mass": 1,
    }


def test_the_figures_of_an_evaluation():
    rng = np.random.default_rng(0)
    alphabet = Alphabet.fixed([4, 4])
    sent = rng.random((50, 40, 3)) < 0.6
    symbols = np.repeat(rng.integers(0, 4, (sent.sum(), 1)), 2, axis=1).astype(np.int32)
    figures = entropies(alphabet, symbols, before_each(sent))
    assert figures["distinct_messages"] == 4
    assert figures["missing_mass"] == 0
    joint = figures["joint_entropy_bits_per_message"]
    assert joint == pytest.approx(2, abs=0.01)
    assert figures["conditional_entropy_bits_per_message"] == pytest.approx(2, abs=0.02)
    assert joint < figures["corrected_joint_entropy_bits_per_message"] < joint + 0.01
    assert joint < figures["factored_entropy_bits_per_message"] == pytest.approx(4, abs=0.02)
    assert 0 < figures["adaptive_bits_per_message"] - figures["factored_entropy_bits_per_message"] < 0.02
    scarce = entropies(alphabet, symbols[:30], None)
    assert scarce.keys() == {"adaptive_bits_per_message", "distinct_messages", "missing_mass"}


def test_the_message_before_is_the_senders_last_in_its_episode():
    sent = np.array([[[1, 1], [0, 1], [1, 0]], [[1, 0], [1, 1], [0, 1]]], bool)  # [B=2, T=3, N=2]
    # numbered: (0,0,0) 0, (0,0,1) 1, (0,1,1) 2, (0,2,0) 3, (1,0,0) 4, (1,1,0) 5, (1,1,1) 6, (1,2,1) 7
    assert before_each(sent).tolist() == [-1, -1, 1, 0, -1, 4, -1, 6]
    assert before_each(sent[:0]).tolist() == []


def test_different_messages_have_different_ids():
    everything = np.array(list(itertools.product(range(-12, 13), repeat=3)), np.int32)
    assert len(np.unique(message_ids(everything))) == len(everything)
