"""Bits of any integer array: how many a code takes for each row, and the array as bytes that explain themselves.

Rows are the last axis: [..., S] has a row of S numbers at each place. Numbers of a signed dtype may have either sign
(0, -1, 1, -2 are written as 0, 1, 2, 3); those of an unsigned dtype are written as they are. The codes ``fixed`` and
``mixed-radix`` take the range of each column from the array, ``rice`` and ``huffman`` are fitted on it.

Bytes of a packed array: 4 that say what it is, 4 of the header's length, 4 of a CRC-32 over that length and the rest;
the header (deflated JSON: the code's state, shape and dtype); 4 for the size of each block; the blocks. A block is 256
rows without gaps, padded to whole bytes. All numbers are little-endian.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marlcomm.wire.alphabet import RAW_VALUES, Alphabet, Slot, Symbols
from marlcomm.wire.bits import BitReader, Int, Packets, WireError, write_fields
from marlcomm.wire.codes import CODES, Code
from marlcomm.wire.state import rebuilding

MOST_NUMBERS = 2**28
_START = struct.Struct("<4sII")
_MAGIC = b"mcw1"
_SIZE = np.dtype("<u4")
_ROWS_PER_BLOCK = 256
_MOST_HEADER_BYTES = 2**26
_LOW, _HIGH = -(2**31), 2**31 - 1


def measure(array: ArrayLike, code: str | Code = "elias-gamma") -> Int:
    """Bits that a code takes for each row of integers [..., S], in the shape [...].

    Args:
        array: integers that fit in 32 bits with sign.
        code: a name in `CODES`, or a `Code` (frozen, fitted on other messages).

    Raises:
        WireError: no integers, or integers that the code cannot carry.
    """
    numbers, rows = _rows(array)
    return _code(code, numbers.dtype, rows).lengths(rows).reshape(numbers.shape[:-1])


def pack(array: ArrayLike, code: str | Code = "elias-gamma") -> bytes:
    """Integers [..., S] as bytes that `unpack` reads without being told anything; raises `WireError` like `measure`."""
    numbers, rows = _rows(array)
    chosen = _code(code, numbers.dtype, rows)
    header = {"code": chosen.state(), "dtype": numbers.dtype.name, "shape": list(numbers.shape)}
    deflated = zlib.compress(json.dumps(header, separators=(",", ":")).encode(), 9)
    blocks = _write_blocks(chosen, rows)
    rest = deflated + blocks.sizes.astype(_SIZE).tobytes() + blocks.data
    return _START.pack(_MAGIC, len(deflated), _checksum(len(deflated), rest)) + rest


def unpack(data: bytes) -> NDArray[np.integer]:
    """The array that was packed, in its shape and dtype; raises `WireError` for bytes that `pack` did not write."""
    if len(data) < _START.size or data[:4] != _MAGIC:
        raise WireError(f"these bytes are no packed array: they do not start with {_MAGIC!r}")
    _, length, checksum = _START.unpack_from(data)
    rest = data[_START.size :]
    if len(rest) < length or _checksum(length, rest) != checksum:
        raise WireError("the packed array is cut or damaged: its checksum is wrong")
    code, dtype, shape = _read_header(rest[:length])
    rows = _read_blocks(code, math.prod(shape[:-1]), rest[length:])
    numbers = rows.astype(dtype)
    if (numbers != rows).any():
        raise WireError(f"the packed array holds numbers that {dtype.name} does not have")
    return numbers.reshape(shape)


def _checksum(length: int, rest: bytes) -> int:
    return zlib.crc32(rest, length)  # the length as what came before


def _rows(array: ArrayLike) -> tuple[NDArray[np.integer], Symbols]:
    """The array, and its rows [M, S] as 32-bit integers."""
    numbers = np.asarray(array)
    if numbers.dtype.kind not in "iu":
        raise WireError(f"wanted an array of integers, got {numbers.dtype}: round or cast it first")
    if not numbers.ndim or numbers.size > MOST_NUMBERS:
        raise WireError(f"wanted rows of at most {MOST_NUMBERS} numbers in all, got shape {list(numbers.shape)}")
    outside = (numbers < _LOW) | (numbers > _HIGH)
    if outside.any():
        raise WireError(f"{numbers[outside][0]} does not fit in 32 bits: a code carries {_LOW}..{_HIGH}")
    rows = math.prod(numbers.shape[:-1])
    return numbers, numbers.astype(np.int32).reshape(rows, numbers.shape[-1])


def _code(code: str | Code, dtype: np.dtype[Any], rows: Symbols) -> Code:
    if isinstance(code, Code):
        return code
    if code not in CODES:
        raise WireError(f"unknown code {code!r}; known: {', '.join(CODES)}")
    if code in ("fixed", "mixed-radix"):
        slots = [_bounded_slot(column, numbers) for column, numbers in enumerate(rows.T)]
    else:
        whole = Slot(0, "signed", RAW_VALUES) if dtype.kind == "i" else Slot(0, "fixed", _HIGH + 1)
        slots = [replace(whole, column=column) for column in range(rows.shape[1])]
    return Code.fit(Alphabet(tuple(slots)), rows, code)


def _bounded_slot(column: int, numbers: Symbols) -> Slot:
    """The smallest slot that holds all numbers of a column."""
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    if low >= 0:
        return Slot(column, "fixed", high + 1)
    return Slot(column, "signed", min(2 * max(-low, high) + 1, RAW_VALUES))


def _write_blocks(code: Code, rows: Symbols) -> Packets:
    values, widths = (_in_blocks(side) for side in code.fields(rows))
    return write_fields(values, widths)


def _in_blocks(fields: Int) -> Int:
    """Fields [M, F] of rows as those of blocks, [B, 256 * F]; the rows that the last block lacks have no bits."""
    missing = -len(fields) % _ROWS_PER_BLOCK
    blocks = (len(fields) + missing) // _ROWS_PER_BLOCK
    return np.pad(fields, ((0, missing), (0, 0))).reshape(blocks, _ROWS_PER_BLOCK * fields.shape[1])


def _read_header(deflated: bytes) -> tuple[Code, np.dtype[Any], tuple[int, ...]]:
    with rebuilding("a packed array"):
        header = json.loads(_inflate(deflated))
        code, dtype, shape = Code.from_state(header["code"]), np.dtype(header["dtype"]), tuple(header["shape"])
        if dtype.kind not in "iu" or not shape or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"dtype {dtype}, shape {shape}")
        if math.prod(shape) > MOST_NUMBERS or math.prod(shape[:-1]) > MOST_NUMBERS:
            raise ValueError(f"shape {shape} is more than {MOST_NUMBERS} numbers")
        if code.alphabet.columns != shape[-1]:
            raise ValueError(f"rows of {shape[-1]} numbers under a code for {code.alphabet.columns}")
    return code, dtype, shape


def _inflate(deflated: bytes) -> bytes:
    """The text of a header; raises `ValueError` for what no `pack` deflated, and for very long texts."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(deflated, _MOST_HEADER_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof or inflater.unused_data:
        raise ValueError("the header is no deflated text of its length")
    return text


def _read_blocks(code: Code, rows: int, data: bytes) -> Symbols:
    blocks = -(-rows // _ROWS_PER_BLOCK)
    if len(data) < blocks * _SIZE.itemsize:
        raise WireError(f"the packed array lacks the sizes of its {blocks} blocks")
    sizes = np.frombuffer(data, _SIZE, blocks).astype(np.int64)
    reader = BitReader(Packets(data[blocks * _SIZE.itemsize :], sizes, 8 * sizes))
    found = np.zeros((blocks, _ROWS_PER_BLOCK, code.alphabet.columns), np.int32)
    for row in range(min(rows, _ROWS_PER_BLOCK)):
        there = np.arange(blocks) * _ROWS_PER_BLOCK + row < rows
        with reader.only(there) as some:
            found[there, row] = code.read(some)
    reader.finish()
    return found.reshape(blocks * _ROWS_PER_BLOCK, code.alphabet.columns)[:rows]
