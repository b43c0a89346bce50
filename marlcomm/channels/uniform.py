"""Equal steps, fixed or learned: b bits for every element (learned step size quantisation, Esser et al. 2020).

CACOM (Li and Zhang 2024) sends its messages this way: the plain rival of every dithered quantiser.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.channels.settings import UniformSettings
from marlcomm.wire.alphabet import Alphabet


class UniformChannel(Channel):
    """Integers of b bits, one for each element, straight-through.

    Shapes: messages v [..., D] -> symbols q = round(v / s) + zero [..., D], clipped to 0 .. 2^b - 1 -> received
    (q - zero) s [..., D]. `zero` is an integer, so silence is heard as exactly 0.
    Gradients: 1 to v inside the range and 0 outside; to s, round(v / s) - v / s inside and the clipped integer
    outside (the paper's equation 3), times 1 / sqrt(N Qp), where N elements share a step and Qp is the largest
    integer. Learned is the logarithm of s, which the paper does not take: it keeps a step positive.
    """

    keeps_scale = False
    settings: UniformSettings
    log_step: Tensor

    def __init__(self, message_size: int, settings: UniformSettings | None = None) -> None:
        settings = UniformSettings() if settings is None else settings
        super().__init__(message_size, settings)
        last = 2**settings.bits - 1
        step = (settings.high - settings.low) / last
        self.zero: int = math.floor(-settings.low / step + 0.5)
        self._range = (-self.zero, last - self.zero)
        self._first = math.log(step)
        log_step = torch.full((1 if settings.shared_step else message_size,), self._first)
        if settings.step == "learned":
            self.log_step = nn.Parameter(log_step)
        else:
            self.register_buffer("log_step", log_step)
        self._largest = self._range[1] or self.zero
        self._gradient_scale = 1 / math.sqrt(message_size // len(log_step) * self._largest)

    @torch.no_grad()
    def adopt(self, loaded: Collection[str]) -> bool:
        if self.settings.step == "fixed":  # by the settings of now, whatever was loaded
            self.log_step.fill_(self._first)
            return True
        return super().adopt(loaded)

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Start a learned step from 2 E|v| / sqrt(Qp) of the untrained team's messages, as the paper does."""
        if self.settings.step == "fixed":
            return
        size = messages.abs().mean(0)
        size = size.mean(0, keepdim=True) if self.settings.shared_step else size
        steps = 2 * size / math.sqrt(self._largest)
        self.log_step.copy_(torch.where(steps > 0, steps.log(), self.log_step))

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([2**self.settings.bits] * self.message_size)

    def steps(self) -> Tensor:
        """The steps [D] (or [1] where they are shared), their gradient scaled."""
        fixed = self.log_step.detach()
        return torch.exp(fixed + self._gradient_scale * (self.log_step - fixed))

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        integers = torch.round(messages / self.steps()).clamp(*self._range)
        return integers.to(torch.int32) + self.zero

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.steps() * (symbols - self.zero)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        # The integer's part of the step's gradient comes with `decode`; this adds - v / s inside the range.
        steps = self.steps()
        return steps.detach() * (messages / steps).clamp(*self._range)
