"""Columns travel small, and come back bit for bit."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from marlcomm.rllib.parcels import Packed, Parcel

SMALL = st.sampled_from([0.0, 1.0, 2.0, -1.0, 255.0, -129.0, 40_000.0, 0.5, -0.0, float("nan"), float("inf"), 1e30])
COLUMNS = st.one_of(
    arrays(np.float32, array_shapes(min_side=0)),
    arrays(np.float32, array_shapes(min_side=0), elements=SMALL.map(np.float32)),
    arrays(np.float64, array_shapes(max_dims=2)),
    arrays(np.float32, array_shapes(), elements=st.sampled_from([0.0, 1.0])),
    arrays(np.int64, array_shapes(min_side=0)),
    arrays(np.int64, array_shapes(), elements=st.integers(-(2**15), 2**16)),
    arrays(np.int32, array_shapes(), elements=st.integers(-2, 200)),
    arrays(np.int16, array_shapes()),
    arrays(np.uint8, array_shapes()),
    arrays(np.bool_, array_shapes(min_side=0)),
)


@given(COLUMNS)
def test_every_bit_comes_back(column):
    before = column.copy()
    packed = Packed.of(column)
    back = packed.column()
    assert (back.dtype, back.shape) == (column.dtype, column.shape)
    assert back.tobytes() == column.tobytes() == before.tobytes()
    assert back.flags.writeable
    assert packed.values.nbytes <= max(column.nbytes, 1)


@pytest.mark.parametrize(
    ("values", "dtype", "kind", "size"),
    [
        ([True, False, True], np.bool_, "uint8", 1),
        ([0, 1, 1, 0, 1, 0, 0, 1, 1], np.float32, "uint8", 2),
        ([0, 1, 1], np.int64, "uint8", 1),
        ([0, -1, 127], np.float32, "int8", 3),
        ([0, 200], np.int32, "uint8", 2),
        ([0, -200], np.float32, "int16", 4),
        ([0, 60_000], np.int64, "uint16", 4),
        ([0, 70_000], np.int64, "int32", 8),
        ([0, 2**40], np.int64, "int64", 16),
        ([0, 70_000], np.float32, "float32", 8),
        ([0, 0.5], np.float32, "float32", 8),
        ([0, -0.0], np.float32, "float32", 8),
        ([0, np.nan], np.float32, "float32", 8),
        ([0, np.inf], np.float32, "float32", 8),
        ([2, 3], np.uint8, "uint8", 2),
    ],
)
def test_the_smallest_type_that_keeps_every_bit(values, dtype, kind, size):
    packed = Packed.of(np.array(values, dtype))
    assert (packed.values.dtype.name, packed.values.nbytes) == (kind, size)


def test_what_fits_at_first_and_not_later_is_kept_as_it_is():
    column = np.ones(5000, np.float32)
    column[-1] = 0.25
    assert Packed.of(column).values.dtype == np.float32


def test_columns_in_another_order_of_memory():
    column = np.arange(12, dtype=np.float32).reshape(3, 4).T
    back = Packed.of(column).column()
    assert np.array_equal(back, column)


def test_a_parcel_weighs_what_its_columns_do():
    columns = {"alive": np.ones((4, 4), bool), "rewards": np.full((4, 4), 0.1, np.float32)}
    parcel = Parcel.of(columns)
    assert parcel.bytes == 2 + 64
    assert {name: value.tolist() for name, value in parcel.open().items()} == {
        name: value.tolist() for name, value in columns.items()
    }
