"""Channels: vectors to symbols to vectors, with a gradient for the sender."""

from typing import TYPE_CHECKING

from marlcomm.lazy import lazy
from marlcomm.registry import register_channel

if TYPE_CHECKING:
    from marlcomm.channels.base import Channel, Peers, Search, Transmission
    from marlcomm.channels.check import check_channel
    from marlcomm.channels.settings import ChannelSettings

__all__ = ["Channel", "ChannelSettings", "Peers", "Search", "Transmission", "check_channel", "register_channel"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Channel": "base",
        "Peers": "base",
        "Search": "base",
        "Transmission": "base",
        "check_channel": "check",
        "ChannelSettings": "settings",
    },
)
