"""Credit for messages: what another message of one sender would have been worth to those who heard it."""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm.objectives.base import Batch, Judge
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.records import Talk


@torch.no_grad()
def message_credit(policy: TeamPolicy, objective: Judge, batch: Batch, talk: Talk) -> Tensor | None:
    """The receivers' objective J [B, T, N, K], had each sender, alone, sent each of its K samples.

    J is the objective's gain at that step's recorded actions, summed over all acting agents that heard the sender, and
    zero where it was not heard. What they remember afterwards stays what was heard. None where the channel asks for
    no credit. The receivers run once for each sender and sample, on all moments at once in which the sender spoke.
    """
    if talk.search is None:
        return None
    samples = talk.search.received
    credit = samples.new_zeros(samples.shape[:-1])
    spoke = talk.spoke & batch["acts"]
    for sender in range(spoke.shape[-1]):
        rows = spoke[..., sender]
        if not rows.any():
            continue
        then, recorded = talk.at(rows), _agents(batch, rows)
        hearers = recorded["acts"] & policy.audible(then.spoke)[..., sender]
        for sample, received in enumerate(samples[..., sender, :, :][rows].unbind(1)):
            decision = policy.rehear(then, sender, received)
            credit[rows, sender, sample] = (objective.gain(recorded, decision) * hearers).sum(-1)
    return credit


def _agents(batch: Batch, rows: Tensor) -> Batch:
    """The columns of agents, [M, N, ...], where rows [B, T] is True; those of worlds and steps have fewer axes."""
    return {name: value[rows] for name, value in batch.items() if value.dim() > rows.dim()}
