"""Any integer array: its bits under a code, and its bytes."""

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from marlcomm.wire import CODES, Alphabet, Code, WireError, measure, pack, unpack

integers = arrays.arrays(
    st.sampled_from([np.int8, np.int16, np.int32, np.uint8, np.uint16, ">i2"]).map(np.dtype),
    arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
)


@settings(max_examples=80, deadline=None)
@given(integers, st.sampled_from(sorted(CODES)))
def test_every_array_comes_back(array, name):
    back = unpack(pack(array, name))
    assert np.array_equal(back, array)
    assert back.shape == array.shape
    assert back.dtype == array.dtype.newbyteorder("=")


@settings(max_examples=80, deadline=None)
@given(integers, st.sampled_from(sorted(CODES)), st.data())
def test_damaged_bytes_are_refused(array, name, data):
    packed = bytearray(pack(array, name))
    place = data.draw(st.integers(0, 8 * len(packed) - 1))
    packed[place // 8] ^= 1 << place % 8
    with pytest.raises(WireError):
        unpack(bytes(packed))
    packed[place // 8] ^= 1 << place % 8
    with pytest.raises(WireError):
        unpack(bytes(packed[: data.draw(st.integers(0, len(packed) - 1))]))


@pytest.mark.parametrize("name", sorted(CODES))
def test_long_arrays_are_as_long_as_measured(name):
    array = np.rint(np.random.default_rng(0).laplace(0, 20, (1000, 3))).astype(np.int64)
    packed = pack(array, name)
    assert np.array_equal(unpack(packed), array)
    (header,) = struct.unpack_from("<I", packed, 4)
    blocks = 8 * (len(packed) - 12 - header - 4 * 4)  # four blocks of at most 256 rows
    assert 0 <= blocks - measure(array, name).sum() < 4 * 8


def test_bits_by_hand():
    goals = np.array([[0], [1], [-1], [2], [-2], [3]])
    assert measure(goals).tolist() == [1, 3, 3, 5, 5, 5]
    assert measure(goals[:, 0]) == 1 + 3 + 3 + 5 + 5 + 5  # one row
    assert measure(goals.astype(np.int8), "fixed").tolist() == [3] * 6  # -3..3
    assert measure(np.array([[0], [1], [2]], np.uint8)).tolist() == [1, 3, 3]  # no sign, no zig-zag
    assert measure([[4, 4]], "mixed-radix").tolist() == [5]  # 25 <= 32
    assert measure(np.zeros((2, 5, 3), int), "huffman").shape == (2, 5)
    extremes = np.array([[-(2**31)], [2**31 - 1]])
    assert measure(extremes).tolist() == [65, 63]
    for name in CODES:
        assert np.array_equal(unpack(pack(extremes, name)), extremes)


def test_a_frozen_code_is_used_as_it_is():
    alphabet = Alphabet.signed(1)
    code = Code.fit(alphabet, np.repeat([0, 1], [90, 10])[:, None].astype(np.int32), "huffman")
    array = np.array([[0], [1], [-4]])
    assert measure(array, code).tolist() == [1, 2, 9]
    assert np.array_equal(unpack(pack(array, code)), array)
    with pytest.raises(WireError, match=r"integers of shape \[messages, 1\]"):
        pack(np.zeros((2, 2), int), code)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), "wanted an array of integers, got float64: round or cast it first"),
        ([True], "got bool"),
        (["a"], "got <U1"),
        (3, r"wanted rows .* got shape \[\]"),
        ([[2**31]], r"2147483648 does not fit in 32 bits: a code carries -2147483648\.\.2147483647"),
        (np.array([2**64 - 1], np.uint64), "18446744073709551615 does not fit"),
    ],
)
def test_what_cannot_be_coded_is_refused(array, message):
    for function in (measure, pack):
        with pytest.raises(WireError, match=message):
            function(array)


def test_unknown_codes_are_named_with_the_known():
    with pytest.raises(WireError, match="unknown code 'gamma'; known: fixed, mixed-radix, elias-gamma"):
        measure([[1]], "gamma")


def forged(packed, body=None, **changes):
    """The same bytes with another header, under a right checksum."""
    (length,) = struct.unpack_from("<I", packed, 4)
    header = json.loads(zlib.decompress(packed[12 : 12 + length])) | changes
    deflated = zlib.compress(json.dumps(header).encode())
    rest = deflated + (packed[12 + length :] if body is None else body)
    return struct.pack("<4sII", b"mcw1", len(deflated), zlib.crc32(rest, len(deflated))) + rest


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": []},
        {"shape": [3, -1]},
        {"shape": [2**40, 1]},
        {"shape": [2**40, 0]},
        {"shape": [1.0, 1]},
        {"shape": [600, 1]},
        {"shape": [2, 3]},
        {"shape": None},
        {"dtype": "float32"},
        {"dtype": "object"},
        {"dtype": "uint8"},
        {"dtype": 3},
        {"code": {}},
        {"body": b""},
        {"body": b"\1\0\0\0"},
        {"body": b"\2\0\0\0\xff\xff"},
    ],
)
def test_forged_headers_are_refused(changes):
    packed = pack(np.array([[5], [-3], [0]]))
    assert np.array_equal(unpack(forged(packed)), [[5], [-3], [0]])
    with pytest.raises(WireError):
        unpack(forged(packed, **changes))
    with pytest.raises(WireError, match="no packed array"):
        unpack(b"not an array")
