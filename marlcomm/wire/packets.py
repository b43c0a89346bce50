"""Packets: a header that says who speaks when, then the message's code, in whole bytes.

The header is 4 bytes: the step in the episode and the agent slot, 16 bits each. With them the receiver regenerates
the channel's noise, so lost or reordered packets cannot desynchronise the ends.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Symbols
from marlcomm.wire.bits import Int, Packets, WireError

HEADER_BYTES = 4
_FIELD = np.dtype(">u2")


class MessageCode(Protocol):
    """What writes messages and reads them: a `Code`, or a conditional one whose context is known."""

    def lengths(self, symbols: Symbols) -> Int: ...

    def encode(self, symbols: Symbols) -> Packets: ...

    def decode(self, packets: Packets) -> Symbols: ...


def write_packets(code: MessageCode, steps: Int, senders: Int, symbols: Symbols) -> Packets:
    """One packet for each message: steps [M], senders [M], symbols [M, S]."""
    limit = np.iinfo(_FIELD).max
    for name, values in (("step", steps), ("sender", senders)):
        if len(values) and (values.min() < 0 or values.max() > limit):
            raise WireError(f"a packet's {name} must be in 0..{limit}, got {values.min()}..{values.max()}")
    payload = code.encode(symbols)
    sizes = payload.sizes + HEADER_BYTES
    data = np.zeros(int(sizes.sum()), np.uint8)
    starts = np.cumsum(sizes) - sizes
    header = np.stack([steps, senders], axis=1).astype(_FIELD).view(np.uint8).reshape(-1, HEADER_BYTES)
    in_header = (starts[:, None] + np.arange(HEADER_BYTES)).ravel()
    is_payload = np.ones(len(data), bool)
    is_payload[in_header] = False
    data[in_header] = header.ravel()
    data[is_payload] = np.frombuffer(payload.data, np.uint8)
    return Packets(data.tobytes(), sizes, payload.bits + 8 * HEADER_BYTES)


def read_header(packets: Packets) -> tuple[Int, Int]:
    """Steps [M] and senders [M] of packets; raises `WireError` for what holds no header."""
    data = _bytes(packets)
    starts = np.cumsum(packets.sizes) - packets.sizes
    header = np.ascontiguousarray(data[starts[:, None] + np.arange(HEADER_BYTES)]).view(_FIELD).astype(np.int64)
    return header[:, 0], header[:, 1]


def read_packets(code: MessageCode, packets: Packets) -> tuple[Int, Int, Symbols]:
    """Steps [M], senders [M] and symbols [M, S] of packets."""
    steps, senders = read_header(packets)
    data = _bytes(packets)
    starts = np.cumsum(packets.sizes) - packets.sizes
    is_payload = np.ones(len(data), bool)
    is_payload[(starts[:, None] + np.arange(HEADER_BYTES)).ravel()] = False
    payload = Packets(data[is_payload].tobytes(), packets.sizes - HEADER_BYTES, packets.bits - 8 * HEADER_BYTES)
    return steps, senders, code.decode(payload)


def _bytes(packets: Packets) -> NDArray[np.uint8]:
    data = np.frombuffer(packets.data, np.uint8)
    if (packets.sizes < HEADER_BYTES).any() or len(data) != packets.sizes.sum():
        raise WireError(f"a packet has at least {HEADER_BYTES} bytes, and the sizes must add up to the data")
    return data
