"""Streams: the messages of one link in one episode as one string of bytes, close to what frozen tables promise.

A range coder (the package ``constriction``) spends a fraction of a bit where a prefix code spends a whole one, and
ends in whole 32-bit words. A stream is written slot by slot, so it is read when the episode is over: it says what the
log of a link takes. What receivers act on, message by message, are packets.

Bytes: 4 of the tables' hash, 4 of the number of messages, 4 of a CRC-32 over the whole hash, the number and the words;
then the words. All numbers are little-endian. The probabilities given to constriction are counts / 2**16, which floats
hold exactly, so every machine builds the same model.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Symbols, from_offsets
from marlcomm.wire.bits import Int, WireError
from marlcomm.wire.groups import LARGEST_MAGNITUDE, FixedLengthCode, magnitudes
from marlcomm.wire.tables import TOTAL, Counts, SlotTable, Tables, slot_offsets

STREAM_HEADER_BYTES = 12
MOST_MESSAGES = 2**24
_HEADER = struct.Struct("<4sII")
_WORD = np.dtype("<u4")


def write_stream(tables: Tables, symbols: Symbols) -> bytes:
    """The bytes of messages [M, S]; raises `WireError` for a symbol outside the tables' alphabet."""
    values = tables.alphabet.check(symbols)
    if len(values) > MOST_MESSAGES:
        raise WireError(f"a stream holds at most {MOST_MESSAGES} messages, got {len(values)}")
    writer = _Writer()
    spelled = np.ones(len(values), bool)
    if tables.messages is not None:
        entries = tables.messages.entries(values)
        writer.entries(tables.messages.counts, entries)
        spelled = entries == tables.messages.counts.known
    for table in tables.slots:
        _write_slot(writer, table, slot_offsets(table.slot, values[spelled & table.slot.used(values)]))
    words = writer.words()
    return _HEADER.pack(_hash(tables)[:4], len(values), _checksum(tables, len(values), words)) + words


def read_stream(tables: Tables, data: bytes) -> Symbols:
    """The messages [M, S] of a stream; raises `WireError` for bytes that `write_stream` never writes under `tables`."""
    messages, words = _open(tables, data)
    try:
        symbols = _read_messages(_Reader(words), tables, messages)
    except AssertionError as error:  # constriction: no such symbol under this model
        raise WireError(f"this is no stream: {error}") from None
    if write_stream(tables, symbols) != data:
        raise WireError("no sender writes this stream: its words say more than its messages")
    return symbols


def _open(tables: Tables, data: bytes) -> tuple[int, bytes]:
    """The number of messages and the words, after everything that can be told without decoding."""
    if len(data) < STREAM_HEADER_BYTES or len(data) % _WORD.itemsize:
        raise WireError(f"a stream is {STREAM_HEADER_BYTES} bytes and whole 32-bit words, got {len(data)} bytes")
    made_under, messages, checksum = _HEADER.unpack_from(data)
    if made_under != _hash(tables)[:4]:
        raise WireError(f"the stream was made under tables {made_under.hex()}..., these are {tables.digest}")
    words = data[STREAM_HEADER_BYTES:]
    if checksum != _checksum(tables, messages, words) or messages > MOST_MESSAGES:
        raise WireError("the stream is cut or damaged: its checksum is wrong")
    return messages, words


def _hash(tables: Tables) -> bytes:
    return bytes.fromhex(tables.digest)


def _checksum(tables: Tables, messages: int, words: bytes) -> int:
    return zlib.crc32(_hash(tables) + messages.to_bytes(4, "little") + words)


class _Writer:
    """Writes entries of tables and bits that no table knows about."""

    def __init__(self) -> None:
        import constriction

        self._coder = constriction.stream.queue.RangeEncoder()

    def entries(self, counts: Counts, entries: Int) -> None:
        if len(counts) > 1 and len(entries):
            self._coder.encode(entries.astype(np.int32), _model(counts))

    def bits(self, bits: NDArray[Any]) -> None:
        if len(bits):
            self._coder.encode(bits.astype(np.int32), _coin())

    def words(self) -> bytes:
        words: bytes = self._coder.get_compressed().astype(_WORD).tobytes()
        return words


class _Reader:
    """Reads what a `_Writer` wrote, in the same order."""

    def __init__(self, words: bytes) -> None:
        import constriction

        self._coder = constriction.stream.queue.RangeDecoder(np.frombuffer(words, _WORD).astype(np.uint32))

    def entries(self, counts: Counts, messages: int) -> Int:
        """An entry for each of so many messages."""
        if len(counts) == 1 or not messages:
            return np.zeros(messages, np.int64)
        return np.asarray(self._coder.decode(_model(counts), messages), np.int64)

    def bits(self, messages: int) -> Int:
        """A bit for each of so many messages."""
        return np.asarray(self._coder.decode(_coin(), messages), np.int64) if messages else np.zeros(0, np.int64)


def _model(counts: Counts) -> Any:
    import constriction

    # perfect=True may take very long, and what it gains is below 2**-24 of the probability.
    return constriction.stream.model.Categorical(counts.counts / TOTAL, perfect=False)


def _coin() -> Any:
    import constriction

    return constriction.stream.model.Uniform(2)


def _read_messages(reader: _Reader, tables: Tables, messages: int) -> Symbols:
    values = np.zeros((messages, tables.alphabet.columns), np.int64)
    spelled = np.ones(messages, bool)
    if tables.messages is not None:
        entries = reader.entries(tables.messages.counts, messages)
        spelled = entries == tables.messages.counts.known
        values[~spelled] = tables.messages.messages[entries[~spelled]]
    for table in tables.slots:
        rows = spelled & table.slot.used(values)
        offsets = _read_slot(reader, table, int(rows.sum()))
        values[rows, table.slot.column] = from_offsets((table.slot,), offsets[:, None])[:, 0]
    return values.astype(np.int32)


def _write_slot(writer: _Writer, table: SlotTable, offsets: Int) -> None:
    """The entries of offsets [M'], then what the escapes among them stand for."""
    entries = table.entries(offsets)
    writer.entries(table.counts, entries)
    escaped = offsets[entries == table.counts.known]
    if isinstance(table.tail, FixedLengthCode):
        _write_bits(writer, escaped, np.full(len(escaped), table.tail.widths[0]))
    else:
        _write_gamma(writer, escaped)


def _read_slot(reader: _Reader, table: SlotTable, messages: int) -> Int:
    entries = reader.entries(table.counts, messages)
    offsets = np.append(table.offsets, 0)[entries]
    escaped = entries == table.counts.known
    if isinstance(table.tail, FixedLengthCode):
        offsets[escaped] = _read_bits(reader, np.full(int(escaped.sum()), table.tail.widths[0]))
    else:
        offsets[escaped] = _read_gamma(reader, int(escaped.sum()))
    return offsets


def _write_gamma(writer: _Writer, offsets: Int) -> None:
    """Elias-gamma of all offsets at once: the first bit of each, the second of those that have one, and so on."""
    widths = magnitudes(offsets)
    for zeros in range(int(widths.max(initial=-1)) + 1):
        writer.bits(widths[widths >= zeros] == zeros)
    _write_bits(writer, offsets + 1, widths)


def _read_gamma(reader: _Reader, messages: int) -> Int:
    widths = np.full(messages, -1)
    for zeros in range(LARGEST_MAGNITUDE + 1):
        unknown = np.flatnonzero(widths < 0)
        if not len(unknown):
            break
        widths[unknown[reader.bits(len(unknown)) == 1]] = zeros
    if (widths < 0).any():
        raise WireError("this is no stream: it holds a number that is too large")
    return _read_bits(reader, widths) + (np.int64(1) << widths) - 1


def _write_bits(writer: _Writer, numbers: Int, widths: Int) -> None:
    """The low bits of numbers [M'], the most significant of `widths` first."""
    for place in reversed(range(int(widths.max(initial=0)))):
        writer.bits(numbers[widths > place] >> place & 1)


def _read_bits(reader: _Reader, widths: Int) -> Int:
    numbers = np.zeros(len(widths), np.int64)
    for place in reversed(range(int(widths.max(initial=0)))):
        wide = widths > place
        numbers[wide] |= reader.bits(int(wide.sum())) << place
    return numbers
