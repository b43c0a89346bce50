"""A trained continuous team, quantised afterwards: the cheap baseline that every learned channel must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.channels.settings import PostTrainingSettings
from marlcomm.wire.alphabet import Alphabet


class PostTrainingChannel(Channel):
    """b bits for each element, uniform over the range in which the trained team speaks.

    Shapes: messages [..., D] -> symbols [..., D] in 0 .. 2^b - 1 -> received [..., D], low + symbol * step.
    Nothing is learned: `calibrate` takes the range of each element from what the team says, so the channel is meant
    for ``marlcomm evaluate RUN channel.name=post_training`` of a run with a continuous channel. Elements outside the
    range are clipped to it. (The gradient passes straight through, for who trains on.)
    """

    keeps_scale, stands_in = False, True
    settings: PostTrainingSettings
    low: Tensor
    step: Tensor

    def __init__(self, message_size: int, settings: PostTrainingSettings | None = None) -> None:
        settings = PostTrainingSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.levels = 2**settings.bits
        self.register_buffer("low", torch.full((message_size,), -1.0))
        self.register_buffer("step", torch.full((message_size,), 2.0 / (self.levels - 1)))

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        if not len(messages):
            return
        ordered = messages.float().sort(dim=0).values
        last = len(ordered) - 1
        outside = round(last * self.settings.clipped_share / 2)
        self.low.copy_(ordered[outside])
        # An element that is always the same needs any step but zero.
        self.step.copy_(((ordered[last - outside] - self.low) / (self.levels - 1)).clamp(min=1e-8))

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([self.levels] * self.message_size)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.round((messages - self.low) / self.step).clamp(0, self.levels - 1).to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.low + symbols * self.step

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return messages
