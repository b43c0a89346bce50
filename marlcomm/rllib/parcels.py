"""Columns on their way between processes, each in the smallest type that gives it back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from marlcomm.rllib.compat import ray
from marlcomm.rllib.errors import TrainingError

Columns = Mapping[str, np.ndarray]

_INTEGERS = tuple(np.dtype(kind) for kind in ("int8", "uint8", "int16", "uint16", "int32"))
_PROBE = 1024  # so many values are tried first: most of what does not fit is refused by them


@dataclass(frozen=True)
class Packed:
    """One column.

    Attributes:
        values: what travels: the column in a smaller type, or its truth values as bits, eight a byte.
        bits: whether it is bits.
        shape, dtype: what the column was.
    """

    values: np.ndarray
    bits: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @staticmethod
    def of(column: np.ndarray) -> Packed:
        """A column in the first type, smallest first, that keeps every bit of it; as it is where none does."""
        if _only_zeros_and_ones(column):
            return Packed(np.packbits(column.astype(bool)), True, column.shape, column.dtype)
        smaller = (kind for kind in _INTEGERS if kind.itemsize < column.dtype.itemsize)
        kept = next((kind for kind in smaller if _keeps(column, kind)), column.dtype)
        return Packed(column.astype(kept, copy=False), False, column.shape, column.dtype)

    def column(self) -> np.ndarray:
        """The column as it was; one that may be written to."""
        if not self.bits:
            return self.values.astype(self.dtype)
        size = int(np.prod(self.shape))
        return np.unpackbits(self.values, count=size).astype(self.dtype).reshape(self.shape)


def _only_zeros_and_ones(column: np.ndarray) -> bool:
    if column.dtype == np.bool_:
        return True
    return _keeps(column, np.dtype(bool))


def _keeps(column: np.ndarray, kind: np.dtype[Any]) -> bool:
    """Whether a column comes back from another type with every bit, the sign of a zero included."""
    return all(_same_after(part, kind) for part in (column.reshape(-1)[:_PROBE], column))


def _same_after(values: np.ndarray, kind: np.dtype[Any]) -> bool:
    if not values.size:
        return True
    if values.dtype.kind == "f" and not _within(values, kind):
        return False
    back = values.astype(kind).astype(values.dtype)
    plain = np.dtype(f"u{values.dtype.itemsize}")
    return bool(np.array_equal(back.view(plain), np.ascontiguousarray(values).view(plain)))


def _within(values: np.ndarray, kind: np.dtype[Any]) -> bool:
    """Whether floats are in the range of a type: others, NaN too, have no defined value in it."""
    least, most = (0, 1) if kind == np.bool_ else (np.iinfo(kind).min, np.iinfo(kind).max)
    return bool(values.min() >= least and values.max() <= most)


@dataclass(frozen=True)
class Parcel:
    """The packed columns of some worlds, in the order of their names."""

    columns: dict[str, Packed]

    @staticmethod
    def of(columns: Columns) -> Parcel:
        return Parcel({name: Packed.of(column) for name, column in columns.items()})

    def open(self) -> dict[str, np.ndarray]:
        """The columns as they were."""
        return {name: packed.column() for name, packed in self.columns.items()}

    @property
    def bytes(self) -> int:
        """What travels."""
        return sum(packed.values.nbytes for packed in self.columns.values())


@dataclass(frozen=True)
class Shipment:
    """Columns in Ray's object store: whoever needs them reads them there, and nobody sends them on.

    Attributes:
        parcel: an `ObjectRef` of the `Parcel`.
        bytes: what it takes.
    """

    parcel: Any
    bytes: int

    @staticmethod
    def of(columns: Columns) -> Shipment:
        parcel = Parcel.of(columns)
        return Shipment(ray.put(parcel), parcel.bytes)


def fetch(parts: Sequence[Columns | Shipment]) -> list[Columns]:
    """The columns of every part, wherever they lie."""
    shipped = [part.parcel for part in parts if isinstance(part, Shipment)]
    try:
        parcels = iter(ray.get(shipped) if shipped else [])
    except ray.exceptions.RayError as error:
        raise TrainingError(f"rows are lost with the process that played them: {error}") from None
    return [next(parcels).open() if isinstance(part, Shipment) else part for part in parts]
