"""Choosing among things that are seen: each is embedded alike, and compared with what the agent looks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcomm.envs.base import Candidates
from marlcomm.policies.indexed import IndexedLinear


class CandidateHead(nn.Module):
    """Logits of candidates: dot products of a query with tanh(linear(candidate)), as in EGG's discrimination game.

    Any number of candidates, in any order, is scored by the same weights.
    """

    def __init__(self, candidates: Candidates, size: int) -> None:
        super().__init__()
        self.width = candidates.size
        self.embed = (
            nn.Linear(candidates.size, size)
            if candidates.indexed is None
            else IndexedLinear(candidates.indexed, 0, size)
        )

    def forward(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Logits [..., K] of queries [..., E] and candidates [..., K F]."""
        keys = torch.tanh(self.embed(candidates.unflatten(-1, (-1, self.width))))
        return (keys @ queries.unsqueeze(-1)).squeeze(-1)
