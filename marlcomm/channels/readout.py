"""A channel at the receiver's read-out instead of the sender (where Liu et al. 2022 place their quantisers)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from marlcomm.channels.base import Channel
from marlcomm.channels.plain import ContinuousChannel


class ReadoutChannel(ContinuousChannel):
    """Links of float32 numbers, and a bottleneck for what each receiver makes of all that it heard.

    As a channel it is the link: messages [..., D] -> bit patterns [..., D] -> the same vectors, 32 D bits. A policy
    gives what a receiver gathered from them, [..., W], to the `bottleneck` and goes on with what comes out. No link
    carries the bottleneck's symbols. The noise is the bottleneck's, keyed by receivers. What is learned is learned by
    the bottleneck: its losses have one value for each receiver, and it absorbs what was gathered.

    Args:
        message_size: D, of what is sent.
        bottleneck: the channel, for vectors of the read-out's width W.
    """

    def __init__(self, message_size: int, bottleneck: Channel) -> None:
        super().__init__(message_size, bottleneck.settings)
        self.bottleneck = bottleneck
        self.noise_size = bottleneck.noise_size

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        with super().evaluation(), self.bottleneck.evaluation():
            yield
