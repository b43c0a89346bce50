"""DDCL: integers from a dithered quantiser, with a learned rate (Kapoor et al. 2025, Freed et al. 2020).

Both ends know the dither eps, uniform in (-delta/2, delta/2). The wire carries m = round((z + eps) / delta), the
receiver hears m delta - eps. The error is then uniform and independent of z, so the gradient with slope 1 is exact,
and E|m| = |z| / delta. The published code never rounds, and its mid-rise variant makes silence cost a bit: this is
the mid-tread form, whose zero signal is the symbol 0.

Without shared noise the sender adds the sum of two such dithers, triangular in (-delta, delta), and the receiver
hears m delta: still unbiased, with variance delta^2 / 4 whatever z is, three times that of shared dither.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.channels.settings import DDCLSettings
from marlcomm.noise import choice
from marlcomm.wire import published
from marlcomm.wire.alphabet import Alphabet, Symbols
from marlcomm.wire.conditional import ConditionalTables


class DDCLChannel(Channel):
    """Signed unbounded integers, one for each element, from a dithered quantiser.

    Shapes: messages z [..., D] -> symbols m [..., D], signed -> received [..., D]: m delta - eps with shared dither,
    m delta without. Noise is [..., D] with shared dither, [..., 2 D] without.
    The loss ``rate`` is the paper's surrogate, sum over d of log2(2 |z_d| / delta + 1) bits per message: it moves
    the sender towards short codes but is no code length.
    In an evaluation with ``eval_dither: none``, nothing is added before rounding, and nothing subtracted after.
    """

    settings: DDCLSettings
    rate_scale: Tensor

    def __init__(self, message_size: int, settings: DDCLSettings | None = None) -> None:
        settings = DDCLSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.noise_size = message_size if settings.dither == "shared" else 2 * message_size
        self.register_buffer("rate_scale", torch.tensor(0.0 if settings.rate_warmup else 1.0))
        if settings.learn_step:
            self.log_step = nn.Parameter(torch.full((message_size,), math.log(settings.delta)))

    def alphabet(self) -> Alphabet:
        return Alphabet.signed(self.message_size, self.settings.limit)

    def step(self) -> Tensor | float:
        """delta: the quantiser's step, one for each element [D] where it is learned; both ends know it."""
        return self.log_step.exp() if self.settings.learn_step else self.settings.delta

    def conditional_tables(self, messages: Tensor) -> ConditionalTables | None:
        levels = self.context_levels
        if levels is None or not len(messages):
            return None
        signals = (messages.detach() / self._known_step()).cpu().numpy()
        return ConditionalTables.fit(signals, levels, self.settings.limit, joint=True)

    @property
    def context_levels(self) -> int | None:
        return self.settings.dither_levels if self.settings.code == "dither_conditional" else None

    def context(self, noise: Tensor | None) -> Tensor | None:
        """What the code may know of each symbol: its dither's level [..., D] int64; None for the marginal code."""
        levels = self.context_levels
        return None if levels is None else choice(_given(noise), levels)

    def paper_bits(self, symbols: Symbols) -> NDArray[np.float64]:
        return published.paper_bits(symbols)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        steps = torch.round((messages + self._dither(noise)) / self._known_step())
        return steps.clamp(-self.settings.limit, self.settings.limit).to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        centres = symbols.to(torch.float32) * self._known_step()
        return centres - self._dither(noise) if self.settings.dither == "shared" else centres

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        if not self.settings.learn_step:
            return messages
        # The error is delta times a number whose law does not know delta. (With m held fixed, the slope of m delta
        # would be m: biased, for m falls as delta rises.)
        with torch.no_grad():
            error = self.decode(self.encode(messages, noise), noise) - messages
        return messages + self.step() * (error / self._known_step())

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        return {"rate": torch.log1p(messages.abs() * (2 / self.step())).sum(-1) / math.log(2)}

    def loss_weights(self) -> dict[str, float]:
        return {"rate": self.settings.rate_weight * float(self.rate_scale)}

    def after_update(self, env_steps: int) -> None:
        warmup = self.settings.rate_warmup
        self.rate_scale.fill_(min(env_steps / warmup, 1.0) if warmup else 1.0)  # also where a parent's had half risen

    def _known_step(self) -> Tensor | float:
        """The step as a number both ends compute with; it learns by the surrogate alone."""
        step = self.step()
        return step.detach() if isinstance(step, Tensor) else step

    def _dither(self, noise: Tensor | None) -> Tensor | float:
        """What is added to messages before rounding [..., D]; the one place that knows of evaluation."""
        if self.evaluating and self.settings.eval_dither == "none":
            return 0.0
        draws = _given(noise)
        levels = self.settings.dither_levels
        if self.settings.dither == "triangular":  # two draws for each element
            steps = draws[..., : self.message_size] + draws[..., self.message_size :] - 1
        elif levels is None:
            steps = draws - 0.5
        else:  # level k stands for the centre of its cell of (0, 1)
            steps = (choice(draws, levels) + 0.5) / levels - 0.5
        return steps * self._known_step()


def _given(noise: Tensor | None) -> Tensor:
    if noise is None:
        raise ValueError("ddcl needs noise: pass uniform draws of shape [..., noise_size], the same to both ends")
    return noise
