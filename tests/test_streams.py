"""One stream of bytes for the messages of one link in one episode."""

import struct
import zlib

import numpy as np
import pytest
from alphabets import two_samples
from hypothesis import given, settings
from hypothesis import strategies as st

from marlcomm.wire import STREAM_HEADER_BYTES, Alphabet, Code, Tables, WireError, read_stream, write_stream


def words(data):
    return (len(data) - STREAM_HEADER_BYTES) / 4


def resealed(tables, data):
    """Forged bytes with a right checksum, as a careful enemy would write them."""
    full = bytes.fromhex(tables.digest)
    checksum = zlib.crc32(full + data[4:8] + data[12:])
    return data[:8] + struct.pack("<I", checksum) + data[12:]


@settings(max_examples=60, deadline=None)
@given(two_samples(), st.booleans())
def test_streams_bring_every_message_back(case, joint):
    alphabet, training, later = case
    tables = Tables.fit(alphabet, training, joint=joint)
    data = write_stream(tables, later)
    assert np.array_equal(read_stream(tables, data), later)
    assert read_stream(tables, data).dtype == np.int32
    # Whole words, and at most one more than the ideal takes.
    assert words(data) <= tables.ideal_bits(later).sum() / 32 + 2


@settings(max_examples=60, deadline=None)
@given(two_samples(), st.booleans(), st.data())
def test_damaged_streams_are_refused(case, joint, data):
    alphabet, training, later = case
    tables = Tables.fit(alphabet, training, joint=joint)
    stream = bytearray(write_stream(tables, later))
    place = data.draw(st.integers(0, 8 * len(stream) - 1))
    stream[place // 8] ^= 1 << place % 8
    with pytest.raises(WireError):
        read_stream(tables, bytes(stream))


@settings(max_examples=60, deadline=None)
@given(two_samples(), st.booleans(), st.data())
def test_forged_streams_are_refused_or_are_what_a_sender_writes(case, joint, data):
    alphabet, training, later = case
    tables = Tables.fit(alphabet, training, joint=joint)
    stream = write_stream(tables, later)
    length = struct.pack("<I", data.draw(st.one_of(st.just(len(later)), st.integers(0, 50))))
    body = data.draw(st.lists(st.binary(min_size=4, max_size=4), max_size=8).map(b"".join))
    forged = resealed(tables, stream[:4] + length + stream[8:12] + body)
    try:
        decoded = read_stream(tables, forged)
    except WireError:
        return
    assert write_stream(tables, decoded) == forged


@settings(max_examples=50, deadline=None)
@given(two_samples(), st.integers(1, 40))
def test_cut_streams_are_refused(case, missing):
    alphabet, training, later = case
    tables = Tables.fit(alphabet, training)
    with pytest.raises(WireError):
        read_stream(tables, write_stream(tables, later)[:-missing])


def test_refusals_say_why():
    symbols = np.zeros((5, 1), np.int32)
    tables, others = (Tables.fit(Alphabet.signed(1), symbols[:n]) for n in (5, 4))
    data = write_stream(tables, symbols)
    with pytest.raises(WireError, match=f"made under tables {tables.digest[:8]}.*, these are {others.digest}"):
        read_stream(others, data)
    with pytest.raises(WireError, match="12 bytes and whole 32-bit words, got 3 bytes"):
        read_stream(tables, b"abc")
    with pytest.raises(WireError, match="checksum"):
        read_stream(tables, data + b"\0\0\0\0")
    with pytest.raises(WireError, match="say more than its messages"):
        read_stream(tables, resealed(tables, data + b"\0\0\0\0"))
    with pytest.raises(WireError, match="checksum"):  # nobody writes 2**32 - 1 messages
        read_stream(tables, resealed(tables, data[:4] + b"\xff" * 4 + data[8:]))
    with pytest.raises(WireError, match=r"symbol 4 in slot 0 of message 0 is not in 0\.\.3"):
        write_stream(Tables.fit(Alphabet.fixed([4]), symbols), symbols + 4)


def test_streams_come_in_words_of_32_bits():
    tables = Tables.fit(Alphabet.fixed([4]), np.arange(400, dtype=np.int32)[:, None] % 4)
    symbols = np.array([[0], [3], [2], [1]] * 100, np.int32)
    assert [words(write_stream(tables, symbols[:n])) for n in (0, 1, 15, 17)] == [0, 1, 1, 2]
    assert words(write_stream(tables, symbols)) in (25, 26)  # 400 symbols of 2 bits, whole words
    certain = Tables.fit(Alphabet.fixed([1, 1]), symbols[:0].repeat(2, axis=1))
    silence = np.zeros((1000, 2), np.int32)
    assert words(write_stream(certain, silence)) == 0
    assert np.array_equal(read_stream(certain, write_stream(certain, silence)), silence)


def test_streams_cost_what_the_tables_promise():
    """Laplace integers of scale 3 have an entropy of 4.04 bits; Huffman pays for whole bits, a stream does not."""
    rng = np.random.default_rng(0)
    training, later = np.rint(rng.laplace(0, 3, (2, 100_000, 2))).astype(np.int32)
    tables = Tables.fit(Alphabet.signed(2), training)
    data, ideal = write_stream(tables, later), tables.ideal_bits(later).sum()
    assert np.array_equal(read_stream(tables, data), later)
    assert 32 * words(data) == pytest.approx(ideal, rel=1e-4)
    assert ideal / later.size == pytest.approx(4.04, abs=0.01)
    assert Code.on_tables(tables).lengths(later).sum() > ideal


@pytest.mark.parametrize("ones", [1, 2, 3, 2**15, 2**16 - 1])
def test_models_are_the_integer_tables(ones):
    """The range coder spends log2(2**16 / count) bits on an entry, to the last count."""
    from marlcomm.wire.tables import TOTAL, Counts, SlotTable

    alphabet = Alphabet.fixed([2])
    table = SlotTable(alphabet.slots[0], np.arange(2), Counts(np.array([TOTAL - ones, ones]), 2))
    tables = Tables(alphabet, (table,))
    symbols = np.ones((20_000, 1), np.int32)
    data = write_stream(tables, symbols)
    assert 32 * words(data) == pytest.approx(20_000 * np.log2(TOTAL / ones), rel=1e-3, abs=64)
    assert np.array_equal(read_stream(tables, data), symbols)
