"""DDCL: integers from a subtractively dithered quantiser, with a learned rate (Kapoor et al. 2025, Freed et al. 2020).

Both ends know the dither eps, uniform in (-delta/2, delta/2). The wire carries m = round((z + eps) / delta), the
receiver hears m delta - eps. The error is then uniform and independent of z, so the gradient with slope 1 is exact,
and E|m| = |z| / delta. The published code never rounds, and its mid-rise variant makes silence cost a bit: this is
the mid-tread form, whose zero signal is the symbol 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.channels.settings import DDCLSettings
from marlcomm.wire.alphabet import Alphabet


class DDCLChannel(Channel):
    """Signed unbounded integers, one for each element, with shared dither.

    Shapes: messages z [..., D] -> symbols m [..., D], signed -> received m delta - eps [..., D].
    The loss ``rate`` is the paper's surrogate, sum over d of log2(2 |z_d| / delta + 1) bits per message: it moves
    the sender towards short codes but is no code length.
    """

    settings: DDCLSettings
    rate_scale: Tensor

    def __init__(self, message_size: int, settings: DDCLSettings | None = None) -> None:
        settings = DDCLSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.noise_size = message_size
        self.register_buffer("rate_scale", torch.tensor(0.0 if settings.rate_warmup else 1.0))

    def alphabet(self) -> Alphabet:
        return Alphabet.signed(self.message_size, self.settings.limit)

    def dither(self, noise: Tensor | None) -> Tensor:
        """The dither eps [..., D] of uniform draws in (0, 1)."""
        if noise is None:
            raise ValueError("ddcl needs noise: pass uniform draws of shape [..., D], the same to encode and decode")
        return (noise - 0.5) * self.settings.delta

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        steps = torch.round((messages + self.dither(noise)) / self.settings.delta)
        return steps.clamp(-self.settings.limit, self.settings.limit).to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return symbols.to(torch.float32) * self.settings.delta - self.dither(noise)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return messages

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        return {"rate": torch.log1p(messages.abs() * (2 / self.settings.delta)).sum(-1) / math.log(2)}

    def loss_weights(self) -> dict[str, float]:
        return {"rate": self.settings.rate_weight * float(self.rate_scale)}

    def after_update(self, env_steps: int) -> None:
        if self.settings.rate_warmup:
            self.rate_scale.fill_(min(env_steps / self.settings.rate_warmup, 1.0))
