"""The steps of many worlds without what lies after their ends, so that nothing is computed there."""

from __future__ import annotations

import torch
from torch import Tensor


class Packing:
    """The M steps of a rollout [B, T] that are to be computed, one time after the other; the longest worlds come first.

    The worlds at a time are thus a prefix of those at the time before, as in torch's packed sequences.

    Attributes:
        order: [B], worlds by falling length.
        counts: how many of them are at each of the T steps; M is their sum.
    """

    def __init__(self, running: Tensor, least: int = 0) -> None:
        """Pack the steps where running [B, T] is True; of fewer worlds than `least`, some that ended go on."""
        self.shape = worlds, steps = running.shape
        lengths = running.sum(1)
        self.order = lengths.argsort(descending=True, stable=True)
        times = torch.arange(steps, device=running.device)
        counts = (lengths > times.unsqueeze(1)).sum(1).clamp(min=min(least, worlds))
        places = torch.arange(worlds, device=running.device) < counts.unsqueeze(1)  # [T, B]
        self._rows = (self.order * steps + times.unsqueeze(1))[places]
        self.counts: list[int] = counts.tolist()

    def pack(self, x: Tensor) -> Tensor:
        """The steps [M, ...] of x [B, T, ...]."""
        return x.flatten(0, 1).index_select(0, self._rows)

    def spread(self, packed: Tensor) -> Tensor:
        """Steps [M, ...] where they belong in [B, T, ...], and zeros elsewhere."""
        worlds, steps = self.shape
        empty = packed.new_zeros((worlds * steps, *packed.shape[1:]))
        spread: Tensor = empty.index_copy(0, self._rows, packed).unflatten(0, self.shape)
        return spread
