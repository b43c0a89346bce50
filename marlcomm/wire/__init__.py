"""The wire: symbols to bits to bytes, and meters that read them. Needs numpy only."""

from marlcomm.wire.alphabet import Alphabet, Slot
from marlcomm.wire.bits import Packets, WireError
from marlcomm.wire.codes import CODES, Code, EliasGammaCode, FixedLengthCode, GroupCode, MixedRadixCode
from marlcomm.wire.meter import BandwidthMeter, BitCounts
from marlcomm.wire.packets import read_packets, write_packets

__all__ = [
    "CODES",
    "Alphabet",
    "BandwidthMeter",
    "BitCounts",
    "Code",
    "EliasGammaCode",
    "FixedLengthCode",
    "GroupCode",
    "MixedRadixCode",
    "Packets",
    "Slot",
    "WireError",
    "read_packets",
    "write_packets",
]
