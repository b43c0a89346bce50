"""The two ends of the scale: everything is sent as it is, or nothing at all."""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.wire.alphabet import Alphabet


class ContinuousChannel(Channel):
    """Every element as a float32 number, 32 bits each: the reference that no quantiser can beat.

    Shapes: messages [..., D] -> symbols [..., D], the bit patterns as int32 -> received [..., D].
    """

    def alphabet(self) -> Alphabet:
        return Alphabet.raw(self.message_size)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return messages.contiguous().view(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return symbols.contiguous().view(torch.float32)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return messages


class SilentChannel(Channel):
    """Nothing is sent and nobody is heard: what a team can do without talk.

    Shapes: messages [..., D] -> symbols [..., 0] -> received [..., D], all zero.
    """

    carries = False

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([])

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return messages.new_zeros((*messages.shape[:-1], 0), dtype=torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.zeros((*symbols.shape[:-1], self.message_size), device=symbols.device)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.zeros_like(messages)
