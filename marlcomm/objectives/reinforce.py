"""REINFORCE with a value baseline, as IC3Net trains (Singh et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marlcomm.objectives.base import Batch, Loss, Objective
from marlcomm.objectives.returns import discounted, goes_on, leaves, own_rewards
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.records import Decision
from marlcomm.policies.rollout import Rollout, entropies, log_probs


@dataclass(frozen=True)
class Reinforce(Objective):
    """Monte-Carlo returns minus the value, summed over agents and divided by *env* steps, as published.

    The return is ``mean_ratio`` times the team's mean return (of all slots, never cut) plus the rest times the agent's
    own (cut where it ends). Nothing is bootstrapped at the horizon.

    Attributes:
        gamma: discount.
        mean_ratio: 0 for individual returns (IC3Net), 1 for the shared mean (CommNet).
        value_weight: weight of the squared error of the value.
        entropy_weight: by env steps.
        reward_scale: rewards are multiplied by this before anything else.
        normalizes_advantages: over all slots of the steps that were played, as the published flag has it.
        slot_returns: whether own returns are those of slots: cut where an occupant leaves, not where one enters, and
            with what a newcomer earns at once (published).
        post_step_mask: whether the loss is of the slots alive after an action, not before it (published).
    """

    gamma: float
    mean_ratio: float
    value_weight: float
    entropy_weight: Schedule
    reward_scale: float
    normalizes_advantages: bool = False
    slot_returns: bool = False
    post_step_mask: bool = False
    sample_deviation = True

    def targets(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        rewards = rollout.rewards * self.reward_scale
        if self.slot_returns:
            returns = discounted(rewards, ~leaves(rollout.alive, rollout.spawned), self.gamma)
        else:
            on = goes_on(rollout.alive, rollout.spawned, rollout.terminated)
            returns = discounted(own_rewards(rewards, rollout.spawned), on, self.gamma)
        if self.mean_ratio:
            shared = discounted(rewards.mean(-1, keepdim=True), None, self.gamma)
            returns = self.mean_ratio * shared + (1 - self.mean_ratio) * returns
        return returns - rollout.values[:, :-1], returns

    def normalized_over(self, batch: Batch) -> Tensor:
        return batch["running"].unsqueeze(-1).expand_as(batch["acts"])

    def columns(self, rollout: Rollout) -> Batch:
        batch = super().columns(rollout)
        if self.post_step_mask:
            batch["learns"] = rollout.alive[:, 1:] & batch["running"].unsqueeze(-1)
        return batch

    def gain(self, batch: Batch, decision: Decision) -> Tensor:
        return batch["advantages"] * log_probs(decision, batch["actions"], batch.get("gate_choices"))

    def loss(self, batch: Batch, decision: Decision, env_steps: int) -> Loss:
        acts = batch.get("learns", batch["acts"]).to(torch.float32)
        count, agents = batch["env_steps"][0], batch["agent_steps"][0].clamp(min=1)
        gain = self.gain(batch, decision)
        error = (decision.values - batch["value_targets"]).square()
        entropy = entropies(decision)
        weight = self.entropy_weight.at(env_steps)
        total = ((-gain + self.value_weight * error - weight * entropy) * acts).sum() / count
        with torch.no_grad():
            stats = {
                "loss/policy": -(gain * acts).sum() / agents,
                "loss/value": (error * acts).sum() / agents,
                "policy/entropy": (entropy * acts).sum() / agents,
            }
        return Loss(total, stats)
