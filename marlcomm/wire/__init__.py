"""The wire: symbols to bits to bytes, and meters that read them. Needs numpy only (streams: constriction)."""

from marlcomm.wire.alphabet import Alphabet, Slot
from marlcomm.wire.arrays import measure, pack, unpack
from marlcomm.wire.bits import Packets, WireError
from marlcomm.wire.codes import CODES, Code
from marlcomm.wire.fitted import HuffmanCode, RiceCode
from marlcomm.wire.groups import EliasDeltaCode, EliasGammaCode, FixedLengthCode, GroupCode, MixedRadixCode
from marlcomm.wire.meter import BandwidthMeter, BitCounts
from marlcomm.wire.packets import read_packets, write_packets
from marlcomm.wire.prior import LearnedCode, learned_tables
from marlcomm.wire.streams import STREAM_HEADER_BYTES, read_stream, write_stream
from marlcomm.wire.tables import Tables

__all__ = [
    "CODES",
    "STREAM_HEADER_BYTES",
    "Alphabet",
    "BandwidthMeter",
    "BitCounts",
    "Code",
    "EliasDeltaCode",
    "EliasGammaCode",
    "FixedLengthCode",
    "GroupCode",
    "HuffmanCode",
    "LearnedCode",
    "MixedRadixCode",
    "Packets",
    "RiceCode",
    "Slot",
    "Tables",
    "WireError",
    "learned_tables",
    "measure",
    "pack",
    "read_packets",
    "read_stream",
    "unpack",
    "write_packets",
    "write_stream",
]
