"""Channels: vectors to symbols to vectors, with a gradient for the sender."""

from typing import TYPE_CHECKING

from marlcomm.lazy import lazy
from marlcomm.registry import register_channel

if TYPE_CHECKING:
    from marlcomm.channels.base import Channel, Peers, Transmission
    from marlcomm.channels.check import check_channel
    from marlcomm.channels.settings import ChannelSettings

__all__ = ["Channel", "ChannelSettings", "Peers", "Transmission", "check_channel", "register_channel"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Channel": "base",
        "Peers": "base",
        "Transmission": "base",
        "check_channel": "check",
        "ChannelSettings": "settings",
    },
)
