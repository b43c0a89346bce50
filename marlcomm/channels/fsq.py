"""Finite scalar quantisation: every number is squashed and rounded to one of a few levels (Mentzer et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.channels.projection import Projection
from marlcomm.channels.settings import FSQSettings
from marlcomm.wire.alphabet import Alphabet

_MARGIN = 1e-3  # of the published code: the outermost levels are reached before the squashing has no slope left


class FSQChannel(Channel):
    """One digit for each of K numbers, no codebook and no loss.

    Shapes: messages [..., D] -> points z [..., K] by a learned linear map, or as they are where K = D -> symbols
    [..., K] in 0 .. L_k - 1 -> values in [-1, 1] -> received [..., D] by a second linear map.
    An even number of levels has no level in the middle: the published form shifts by half a level, so that the
    levels are -1, .., 0, .., 1 - 2 / L. For two levels that shift is absurd, so they are -1 and 1 (the symmetric form
    of Parker et al. 2024).
    """

    settings: FSQSettings
    reach: Tensor
    shift: Tensor
    middle: Tensor
    zero: Tensor
    width: Tensor

    def __init__(self, message_size: int, settings: FSQSettings | None = None) -> None:
        settings = FSQSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.projection = Projection(message_size, len(settings.levels))
        levels = torch.tensor(settings.levels)
        binary, half = levels == 2, levels // 2
        reach = torch.where(binary, 0.5, (levels - 1) * (1 + _MARGIN) / 2)
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        constants = {
            "reach": reach,
            "shift": torch.where(binary, 0.0, torch.atanh(offset / reach)),
            "middle": half - offset,
            "zero": torch.where(binary, 0.5, half.float()),
            "width": torch.where(binary, 0.5, half.float()),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def calibrate(self, messages: Tensor) -> None:
        """Spread what an untrained team says over the levels."""
        self.projection.calibrate(messages)

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed(self.settings.levels)

    def _digits(self, messages: Tensor) -> Tensor:
        """Digits [..., K] before they are rounded."""
        return torch.tanh(self.projection(messages) + self.shift) * self.reach + self.middle

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._digits(messages).round().to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.projection.back((symbols - self.zero) / self.width)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.projection.slope((self._digits(messages) - self.zero) / self.width)
