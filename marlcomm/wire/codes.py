"""Prefix codes: symbols to bits and back, each message on its own, with lengths known exactly beforehand.

Whoever knows the alphabet and the code reads a message without being told where it ends. A `Code` writes one group of
slots after the other, each by a `GroupCode`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet, Slot, Symbols, from_offsets, to_offsets
from marlcomm.wire.bits import BitReader, Int, Packets, WireError, write_fields
from marlcomm.wire.fitted import HuffmanCode, RiceCode, WholeMessageCode, spread
from marlcomm.wire.groups import EliasDeltaCode, EliasGammaCode, FixedLengthCode, GroupCode, MixedRadixCode
from marlcomm.wire.prior import LearnedCode
from marlcomm.wire.state import State, digest, rebuilding
from marlcomm.wire.tables import MessageTable, Tables

_WORD = np.dtype(">u4")
Choose = Callable[[tuple[Slot, ...]], GroupCode]


class Code:
    """A prefix code for the messages of one alphabet. Symbols are [M, S] integers.

    Args:
        alphabet: of the messages.
        choose: the code of a group of slots; the one without statistics that is shortest for its kind if None.
        messages: a table of whole messages, each of which gets a codeword of its own; other messages are its escape
            codeword and then their groups.
    """

    def __init__(
        self, alphabet: Alphabet, choose: Choose | None = None, *, messages: MessageTable | None = None
    ) -> None:
        self.alphabet = alphabet
        self.parts = [(choose or default_group)(slots) for slots in alphabet.groups]
        self.whole = None if messages is None else WholeMessageCode(messages)
        self._plain = bool(self.parts) and self.whole is None and all(_is_whole_words(part) for part in self.parts)

    @classmethod
    def fit(cls, alphabet: Alphabet, symbols: Symbols, name: str, *, joint: bool = False) -> Code:
        """The code of that name in `CODES`, fitted on messages [M, S] of the training time.

        With `joint`, messages seen there get codewords of their own where they are at most 4096 (see `MessageTable`).
        """
        values = alphabet.check(symbols)
        table = MessageTable.fit(alphabet, values) if joint else None
        return cls(
            alphabet,
            lambda slots: CODES[name].fit(slots, to_offsets(slots, values[slots[0].used(values)])),
            messages=table,
        )

    @classmethod
    def on_tables(cls, tables: Tables) -> Code:
        """The Huffman code of frequency tables."""
        of_slot = dict(zip(tables.alphabet.slots, tables.slots, strict=True))
        return cls(
            tables.alphabet,
            lambda slots: HuffmanCode(slots, [of_slot[slot] for slot in slots]),
            messages=tables.messages,
        )

    def state(self) -> State:
        """Plain JSON data that rebuilds the code, its alphabet included."""
        return {
            "alphabet": self.alphabet.state(),
            "parts": [part.state() for part in self.parts],
            "messages": None if self.whole is None else self.whole.table.state(),
        }

    @classmethod
    def from_state(cls, state: State) -> Code:
        """The code that `state` describes; raises `WireError` where it describes none."""
        with rebuilding("a code"):
            alphabet, messages = Alphabet.from_state(state["alphabet"]), state["messages"]
            parts = dict(zip(alphabet.groups, state["parts"], strict=True))
            return cls(
                alphabet,
                lambda slots: CODES[parts[slots]["code"]].from_state(slots, parts[slots]),
                messages=None if messages is None else MessageTable.from_state(alphabet, messages),
            )

    @cached_property
    def digest(self) -> str:
        """The hash by which both ends know that they hold the same code."""
        return digest(self.state())

    def lengths(self, symbols: Symbols) -> Int:
        """Bits of each message, [M]; raises `WireError` for a symbol outside the alphabet."""
        values = self.alphabet.check(symbols)
        bits, spelled = np.zeros(len(values), np.int64), None
        if self.whole is not None:
            _, widths, spelled = self.whole.fields(values)
            bits += widths[:, 0]
        for part in self.parts:
            rows = _rows(part.slots, values, spelled)
            bits[rows] += part.lengths(to_offsets(part.slots, values[rows]))
        return bits

    def encode(self, symbols: Symbols) -> Packets:
        """The bytes of messages; raises `WireError` for a symbol outside the alphabet."""
        if self._plain:  # whole words need no bit by bit
            values = self.alphabet.check(symbols)
            sizes = np.full(len(values), _WORD.itemsize * self.alphabet.columns)
            return Packets(to_offsets(self.alphabet.slots, values).astype(_WORD).tobytes(), sizes, 8 * sizes)
        return write_fields(*self.fields(symbols))

    def fields(self, symbols: Symbols) -> tuple[Int, Int]:
        """Values and widths of bit fields, both [M, F]; raises `WireError` for a symbol outside the alphabet."""
        values = self.alphabet.check(symbols)
        fields, widths = [np.zeros((len(values), 0), np.int64)], [np.zeros((len(values), 0), np.int64)]
        spelled = None
        if self.whole is not None:
            codewords, lengths, spelled = self.whole.fields(values)
            fields.append(codewords)
            widths.append(lengths)
        for part in self.parts:
            rows = _rows(part.slots, values, spelled)
            for side, found in zip((fields, widths), part.fields(to_offsets(part.slots, values[rows])), strict=True):
                side.append(found if isinstance(rows, slice) else spread(found, rows))
        return np.concatenate(fields, axis=1), np.concatenate(widths, axis=1)

    def decode(self, packets: Packets) -> Symbols:
        """The symbols [M, S] of packets; raises `WireError` for bytes that no sender can have sent."""
        if self._plain:
            return self._decode_plain(packets)
        reader = BitReader(packets)
        symbols = self.read(reader)
        reader.finish()
        return symbols

    def read(self, reader: BitReader) -> Symbols:
        """One message [S] from the next bits of each of M rows, [M, S]."""
        if self.whole is None:
            return self._read_groups(reader).astype(np.int32)
        values, spelled = self.whole.read(reader)
        if spelled.any():
            with reader.only(spelled) as some:
                values[spelled] = self._read_groups(some)
            listed = spelled & (self.whole.table.entries(values) != self.whole.table.counts.known)
            if listed.any():
                raise reader.error(listed, "spells out a message that the table lists")
        return values.astype(np.int32)

    def _read_groups(self, reader: BitReader) -> Int:
        values = np.zeros((len(reader), self.alphabet.columns), np.int64)
        for part in self.parts:
            rows = part.slots[0].used(values)
            if part.slots[0].when and not rows.any():
                continue
            with reader.only(rows) as some:
                found = from_offsets(part.slots, part.read(some))
            for slot, column in zip(part.slots, found.T, strict=True):
                values[rows, slot.column] = column
        return values

    def _decode_plain(self, packets: Packets) -> Symbols:
        size = _WORD.itemsize * self.alphabet.columns
        if (packets.sizes != size).any() or len(packets.data) != size * len(packets):
            raise WireError(f"wanted {len(packets)} messages of {size} bytes, got {len(packets.data)} bytes")
        words = np.frombuffer(packets.data, _WORD).astype(np.int64).reshape(len(packets), self.alphabet.columns)
        return from_offsets(self.alphabet.slots, words).astype(np.int32)


def _is_whole_words(part: GroupCode) -> bool:
    return isinstance(part, FixedLengthCode) and part.slots[0].kind == "raw" and not part.slots[0].when


def _rows(slots: tuple[Slot, ...], values: Int, spelled: NDArray[np.bool_] | None) -> NDArray[np.bool_] | slice:
    """Which messages send a group; a slice where all do, so that nothing is copied."""
    if not slots[0].when:
        return slice(None) if spelled is None else spelled
    used = slots[0].used(values)
    return used if spelled is None else used & spelled


CODES: dict[str, type[GroupCode]] = {
    code.name: code
    for code in (
        FixedLengthCode,
        MixedRadixCode,
        EliasGammaCode,
        EliasDeltaCode,
        RiceCode,
        HuffmanCode,
        LearnedCode,
    )
}


def default_group(slots: tuple[Slot, ...]) -> GroupCode:
    """The code that marlcomm meters by: Elias-gamma for signed numbers, else the shortest without statistics."""
    if slots[0].kind == "signed":
        return EliasGammaCode(slots)
    return FixedLengthCode(slots) if slots[0].kind == "raw" else MixedRadixCode(slots)
