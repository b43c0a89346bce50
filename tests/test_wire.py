"""Symbols to bits to bytes and back, and the meter that counts them."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlcomm.wire import (
    CODES,
    Alphabet,
    BandwidthMeter,
    BitCounts,
    Code,
    EliasGammaCode,
    FixedLengthCode,
    MixedRadixCode,
    Packets,
    WireError,
    read_packets,
    write_packets,
)
from marlcomm.wire.entropy import estimable, histogram, message_ids, plug_in_entropy

flat = st.one_of(
    st.lists(st.integers(1, 300), max_size=12).map(Alphabet.fixed),
    st.builds(Alphabet.signed, st.integers(0, 6), st.sampled_from([1, 7, 2**15 - 1, 2**30])),
    st.builds(Alphabet.raw, st.integers(0, 4)),
)
branched = st.one_of(
    st.lists(flat, min_size=1, max_size=4).map(Alphabet.choice),
    st.builds(Alphabet.until_end, st.integers(1, 9), st.integers(0, 5)),
)
alphabets = st.one_of(flat, branched, st.lists(branched, min_size=1, max_size=3).map(Alphabet.choice))


@st.composite
def messages(draw):
    alphabet = draw(alphabets)
    symbols = np.zeros((draw(st.integers(0, 20)), alphabet.columns), np.int32)
    for row in symbols:
        for slot in alphabet.slots:
            if slot.used(row[None])[0]:
                row[slot.column] = draw(st.integers(*slot.bounds))
    return alphabet, symbols


def all_messages(alphabet):
    """Every message of a small alphabet."""
    columns = (range(low, high + 1) for low, high in alphabet.bounds)
    for row in itertools.product(*columns):
        try:
            yield alphabet.check(np.array([row], np.int32))[0]
        except WireError:
            continue


@settings(max_examples=150, deadline=None)
@given(messages(), st.sampled_from(sorted(CODES)))
def test_every_code_brings_every_message_back(case, name):
    alphabet, symbols = case
    code = Code(alphabet, CODES[name])
    packets = code.encode(symbols)
    assert np.array_equal(code.decode(packets), symbols)
    assert np.array_equal(packets.bits, code.lengths(symbols))
    assert len(packets.data) == packets.sizes.sum() == sum(-(-bits // 8) for bits in packets.bits.tolist())


@settings(max_examples=60, deadline=None)
@given(messages(), st.data())
def test_packets_bring_sender_step_and_symbols_back(case, data):
    alphabet, symbols = case
    numbers = st.lists(st.integers(0, 65535), min_size=len(symbols), max_size=len(symbols))
    steps, senders = (np.array(data.draw(numbers), np.int64) for _ in range(2))
    code = Code(alphabet)
    packets = write_packets(code, steps, senders, symbols)
    back = read_packets(code, packets)
    for sent, got in zip((steps, senders, symbols), back, strict=True):
        assert np.array_equal(sent, got)
    assert (8 * packets.sizes >= code.lengths(symbols)).all()  # prefix bits never exceed the packet


@settings(max_examples=150, deadline=None)
@given(messages(), st.sampled_from(sorted(CODES)), st.data())
def test_damaged_bytes_are_refused_or_decode_to_the_alphabet(case, name, data):
    alphabet, symbols = case
    code = Code(alphabet, CODES[name])
    packets = code.encode(symbols)
    damaged = bytearray(packets.data)
    if damaged:
        place = data.draw(st.integers(0, 8 * len(damaged) - 1))
        damaged[place // 8] ^= 1 << place % 8
    try:
        decoded = code.decode(Packets(bytes(damaged), packets.sizes, packets.bits))
    except WireError:
        return
    code.lengths(decoded)  # raises if a symbol left the alphabet


def test_truncated_and_foreign_packets_are_refused():
    code = Code(Alphabet.signed(4), EliasGammaCode)
    packets = code.encode(np.array([[900, -2, 0, 5]], np.int32))
    with pytest.raises(WireError, match="ends too early"):
        code.decode(Packets(packets.data[:-1], packets.sizes - 1, packets.bits))
    with pytest.raises(WireError, match="goes on after its last symbol"):
        code.decode(Packets(packets.data + b"\0", packets.sizes + 1, packets.bits))
    with pytest.raises(WireError, match="the packets hold"):
        code.decode(Packets(packets.data, packets.sizes + 1, packets.bits))
    with pytest.raises(WireError, match="padding"):
        Code(Alphabet.signed(1), EliasGammaCode).decode(Packets(b"\xff", np.array([1]), np.array([1])))
    with pytest.raises(WireError, match="at least 4 bytes"):
        read_packets(code, Packets(b"abc", np.array([3]), np.array([24])))


def test_symbols_outside_the_alphabet_are_named():
    with pytest.raises(WireError, match=r"symbol 5 in slot 1 of message 0 is not in 0\.\.4"):
        Code(Alphabet.fixed([5, 5]), FixedLengthCode).encode(np.array([[4, 5]], np.int32))
    with pytest.raises(WireError, match=r"integers of shape \[messages, 2\], got float64"):
        Code(Alphabet.fixed([5, 5]), FixedLengthCode).encode(np.zeros((1, 2)))
    with pytest.raises(WireError, match=r"step must be in 0\.\.65535"):
        write_packets(
            Code(Alphabet.fixed([]), MixedRadixCode), np.array([70000]), np.array([0]), np.zeros((1, 0), np.int32)
        )


def test_lengths_by_hand():
    gamma = Code(Alphabet.signed(1), EliasGammaCode)
    # zig-zag: 0 -> 1 (1 bit), -1 -> 2 and 1 -> 3 (3 bits), -2, 2, -3 -> 4, 5, 6 (5 bits)
    assert gamma.lengths(np.array([[0], [-1], [1], [-2], [2], [-3], [3], [4]], np.int32)).tolist() == [
        1,
        3,
        3,
        5,
        5,
        5,
        5,
        7,
    ]
    one = np.zeros((1, 3), np.int32)
    assert Code(Alphabet.fixed([5, 16, 1]), FixedLengthCode).lengths(one).tolist() == [3 + 4 + 0]
    assert Code(Alphabet.fixed([5, 5, 5]), MixedRadixCode).lengths(one).tolist() == [7]  # 125 < 128
    assert Code(Alphabet.fixed([8, 5, 5]), MixedRadixCode).lengths(one).tolist() == [8]  # 200 < 256
    assert Code(Alphabet.raw(3), FixedLengthCode).lengths(one).tolist() == [96]


def test_what_is_not_on_the_wire_costs_nothing():
    prefixes = Alphabet.choice([Alphabet.fixed([16] * q) for q in range(4)])
    symbols = np.array([[0, 0, 0, 0], [1, 9, 0, 0], [3, 9, 0, 15]], np.int32)
    assert Code(prefixes).lengths(symbols).tolist() == [2, 6, 14]
    assert prefixes.nominal_bits(symbols).tolist() == [2, 6, 14]
    tokens = Alphabet.until_end(8, 3)
    symbols = np.array([[0, 0, 0], [5, 0, 0], [5, 5, 0], [5, 5, 5]], np.int32)
    assert Code(tokens).lengths(symbols).tolist() == [3, 6, 9, 9]  # the end mark costs a token, except at full length
    with pytest.raises(WireError, match=r"symbol 5 in slot 2 of message 0 is not in 0\.\.0"):
        Code(tokens).encode(np.array([[5, 0, 5]], np.int32))


def test_bits_by_hand():
    assert Code(Alphabet.signed(3), EliasGammaCode).encode(np.array([[0, -1, 2]], np.int32)).data == bytes(
        [0b10100010, 0b10000000]
    )
    assert Code(Alphabet.fixed([5, 3]), MixedRadixCode).encode(np.array([[4, 2]], np.int32)).data == bytes([14 << 4])


@pytest.mark.parametrize("name", sorted(CODES))
@pytest.mark.parametrize(
    "alphabet",
    [
        Alphabet.fixed([3, 4]),
        Alphabet.fixed([7]),
        Alphabet.signed(2, 40),
        Alphabet.until_end(5, 3),
        Alphabet.choice([Alphabet.fixed([]), Alphabet.fixed([5]), Alphabet.fixed([5, 3]), Alphabet.signed(2, 3)]),
    ],
)
def test_kraft_sums_are_at_most_one(name, alphabet):
    everything = np.array(list(all_messages(alphabet)), np.int32)
    lengths = Code(alphabet, CODES[name]).lengths(everything)
    assert (2.0**-lengths).sum() <= 1 + 1e-12


def test_gamma_on_the_six_goals():
    """The example of the DDCL paper: 0.84 "bits" by its formula, against an entropy of 1.81."""
    weights = np.array([200, 100, 50, 25, 12, 1])
    shares = weights / weights.sum()
    symbols = np.array([[0], [1], [-1], [2], [-2], [3]], np.int32)
    assert plug_in_entropy(weights) == pytest.approx(1.81, abs=0.005)
    assert (shares * Code(Alphabet.signed(1), EliasGammaCode).lengths(symbols)).sum() == pytest.approx(2.165, abs=0.005)
    assert (shares * np.log2(2 * np.abs(symbols[:, 0]) + 1)).sum() == pytest.approx(0.84, abs=0.005)


def test_the_meter_by_hand():
    meter = BandwidthMeter(Alphabet.signed(2), gated=True)
    symbols = np.array([[[[0, 0], [1, 0], [9, 9]], [[0, 0], [2, -1], [0, 0]]]], np.int32)  # [B=1, T=2, N=3, S=2]
    acts = np.array([[[True, True, False], [True, True, True]]])
    spoke = np.array([[[True, True, True], [False, True, True]]])
    counts = meter.count(symbols, spoke, acts, env_steps=2, episodes=1)
    # sent: (0,0) 2 bits, (1,0) 4, then (2,-1) 8, (0,0) 2; the dead slot's 9s do not count; 5 presence bits
    assert counts.messages == 4
    assert counts.agent_steps == 5
    assert counts.prefix_bits == 2 + 4 + 8 + 2 + 5
    assert counts.received_bits == (2 + 4) * 1 + (8 + 2) * 2 + (2 * 1 + 3 * 2)
    report = meter.report(counts)
    assert report["messages_per_agent_step"] == 0.8
    assert report["prefix_bits_per_message"] == 21 / 4
    assert report["prefix_bits_per_agent_step"] == 21 / 5
    assert report["prefix_bits_per_env_step"] == 21 / 2
    assert report["prefix_bits_per_episode"] == 21
    assert report["distinct_messages"] == 3
    assert "joint_entropy_bits_per_message" not in report  # 4 samples of 3 values


def test_counts_of_two_runners_merge_like_one():
    meter = BandwidthMeter(Alphabet.fixed([4, 4]))
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 4, (6, 50, 3, 2)).astype(np.int32)
    spoke = rng.random((6, 50, 3)) < 0.7
    acts = rng.random((6, 50, 3)) < 0.8
    whole = meter.count(symbols, spoke, acts, 300, 6)
    parts = [meter.count(symbols[i : i + 2], spoke[i : i + 2], acts[i : i + 2], 100, 2) for i in (0, 2, 4)]
    assert sum(parts, BitCounts()) == whole
    report = meter.report(whole)
    assert report["joint_entropy_bits_per_message"] <= report["nominal_bits_per_message"] == 4.0
    assert report["joint_entropy_bits_per_message"] == pytest.approx(4.0, abs=0.1)


def test_silence_and_floats_have_no_invented_figures():
    silent = BandwidthMeter(Alphabet.fixed([]))
    everybody = np.ones((1, 2, 3), bool)
    report = silent.report(silent.count(np.zeros((1, 2, 3, 0), np.int32), ~everybody, everybody, 2, 1))
    assert report["prefix_bits_per_agent_step"] == 0
    assert "prefix_bits_per_message" not in report
    floats = BandwidthMeter(Alphabet.raw(2))
    report = floats.report(floats.count(np.zeros((1, 2, 3, 2), np.int32), everybody, everybody, 2, 1))
    assert report["prefix_bits_per_message"] == report["nominal_bits_per_message"] == 64
    assert "joint_entropy_bits_per_message" not in report


def test_entropy_is_withheld_under_ten_samples_a_value():
    few, enough = np.arange(20, dtype=np.int32) % 4, np.arange(40, dtype=np.int32) % 4
    assert not estimable(histogram(few[:, None]))
    assert estimable(histogram(enough[:, None]))
    assert plug_in_entropy(histogram(enough[:, None]).values()) == pytest.approx(2.0)


def test_different_messages_have_different_ids():
    everything = np.array(list(itertools.product(range(-12, 13), repeat=3)), np.int32)
    assert len(np.unique(message_ids(everything))) == len(everything)


def test_the_wire_needs_numpy_only():
    script = "import sys, marlcomm.wire; print(sorted({'torch', 'ray', 'pydantic', 'gymnasium'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
