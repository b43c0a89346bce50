"""Choosing among things that are seen: each is embedded alike, and compared with what the agent looks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcomm.envs.base import TeamSpec


class CandidateHead(nn.Module):
    """Logits of candidates: dot products of a query with tanh(linear(candidate)), as in EGG's discrimination game.

    Any number of candidates, in any order, is scored by the same weights. Indices are spread out to the vectors that
    they stand for: of the size of one candidate, that is quicker than to sum embeddings.
    """

    def __init__(self, spec: TeamSpec, size: int) -> None:
        super().__init__()
        assert spec.candidates is not None
        self.candidates = spec.candidates
        self.embed = nn.Linear(spec.candidates.width, size)
        acts = spec.actors or (True,) * spec.num_agents
        self.actors = [slot for slot, chooses in enumerate(acts) if chooses]

    def forward(self, queries: Tensor, candidates: Tensor) -> Tensor:
        """Logits [..., N, K] of queries [..., N, E] and candidates [..., N, K F]; zero for slots that are no actors."""
        seen = self.candidates.vectors(candidates[..., self.actors, :])
        scores = (torch.tanh(self.embed(seen)) @ queries[..., self.actors, :].unsqueeze(-1)).squeeze(-1)
        logits = scores.new_zeros((*queries.shape[:-1], scores.shape[-1]))
        logits[..., self.actors, :] = scores
        return logits
