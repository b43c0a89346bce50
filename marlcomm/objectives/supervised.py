"""Learning what a world says is right: cross-entropy, through whatever the agents told each other.

EGG calls this a differentiable game loss (Kharitonov et al. 2019): only the channel is sampled, the choice is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marlcomm.objectives.base import Batch, Loss, Objective, taught
from marlcomm.policies.records import Decision
from marlcomm.policies.rollout import Rollout


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """-ln pi(right action), averaged over the labels of acting agents; no reward and no value takes part."""

    def columns(self, rollout: Rollout) -> Batch:
        assert rollout.labels is not None
        return super().columns(rollout) | {"labels": rollout.labels}

    def gain(self, batch: Batch, decision: Decision) -> Tensor:
        told = taught(batch)
        right = batch["labels"].where(told, 0)
        return decision.distribution.log_probs(decision.logits, right).where(told, 0.0)

    def loss(self, batch: Batch, decision: Decision, env_steps: int) -> Loss:
        count = batch["label_count"][0].clamp(min=1)
        total = -self.gain(batch, decision).sum() / count
        with torch.no_grad():
            found = (decision.distribution.greedy(decision.logits) == batch["labels"]) & taught(batch)
            stats = {"loss/cross_entropy": total.detach(), "policy/accuracy": found.sum() / count}
        return Loss(total, stats)
