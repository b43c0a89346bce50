"""A learned linear map between messages and the few numbers that a scalar quantiser rounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projection(nn.Module):
    """Messages [..., D] to points [..., K] and back; where K = D, messages are the points and nothing is learned."""

    # A constant message has no spread to divide by, and a sender's gradient is multiplied by the gain.
    _MOST_GAIN = 100.0

    def __init__(self, message_size: int, points: int) -> None:
        super().__init__()
        learned = message_size != points
        self.inwards = nn.Linear(message_size, points) if learned else None
        self.outwards = nn.Linear(points, message_size) if learned else None

    def forward(self, messages: Tensor) -> Tensor:
        """Points [..., K] of messages [..., D]."""
        return messages if self.inwards is None else self.inwards(messages)

    def back(self, points: Tensor) -> Tensor:
        """Messages [..., D] of points [..., K]; the way back learns from what receivers make of it."""
        return points if self.outwards is None else self.outwards(points)

    def slope(self, points: Tensor) -> Tensor:
        """The same up to a constant, for the gradient to points alone: the way back has learned in `back` already."""
        return points if self.outwards is None else points @ self.outwards.weight.detach().T

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Give the points of messages [M, D] mean 0 and spread 1: those of an untrained team would all round alike."""
        if self.inwards is None or not len(messages):
            return
        points = self.inwards(messages)
        gain = (1 / points.std(0, correction=0)).clamp(max=self._MOST_GAIN)
        self.inwards.weight.mul_(gain.unsqueeze(-1))
        self.inwards.bias.copy_((self.inwards.bias - points.mean(0)) * gain)
