"""Proximal policy optimisation, for each agent on its own (Schulman et al. 2017; Yu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from marlcomm.objectives.base import Batch, Loss, Objective
from marlcomm.objectives.entropy import HIGHEST_ENTROPY, LOWEST_ENTROPY
from marlcomm.objectives.returns import advantages, goes_on, own_rewards
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.records import Decision
from marlcomm.policies.rollout import Rollout, entropies, entropy_ranges, log_probs


@dataclass(frozen=True)
class ValueLoss:
    """What errors e of values cost: half their square, or Huber's loss, which grows linearly beyond delta.

    Errors are in units of scaled rewards, or of the targets' deviation where rows carry one (`value_scale` [B]).

    Attributes:
        huber_delta: delta; None: half the square everywhere.
        clip: how far a value can move from the rollout's, in the same units, before it gains nothing more; None: at
            will.
    """

    huber_delta: float | None = None
    clip: float | None = None

    def of(self, batch: Batch, values: Tensor) -> Tensor:
        """The losses [...] of values [...]."""
        loss = self._of_error(batch, values)
        if self.clip is None:
            return loss
        before = batch["values"]
        reach = self.clip * (batch["value_scale"][0] if "value_scale" in batch else torch.ones_like(before))
        return torch.maximum(loss, self._of_error(batch, before + (values - before).clamp(-reach, reach)))

    def _of_error(self, batch: Batch, values: Tensor) -> Tensor:
        error = values - batch["value_targets"]
        if "value_scale" in batch:
            error = error / batch["value_scale"][0]
        if self.huber_delta is None:
            return 0.5 * error.square()
        size, delta = error.abs(), self.huber_delta
        return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))


@dataclass(frozen=True)
class PPO(Objective):
    """The clipped surrogate, a loss of values and an entropy bonus, averaged over acting agents.

    Attributes:
        gamma, lam: discount, and the decay of generalised advantage estimation.
        clip: how far the probability ratio of an agent's action (and gate choice) may move from 1.
        value_weight: weight of the value's loss.
        entropy_weight: by env steps; where rows carry an `entropy_weight`, that one.
        reward_scale: rewards are multiplied by this before anything else.
        mean_ratio: share of the team's mean reward in an agent's own: what one agent's braking costs those behind it
            is nothing to itself.
        value_loss: of each value; half its squared error by default.
    """

    gamma: float
    lam: float
    clip: float
    value_weight: float
    entropy_weight: Schedule
    reward_scale: float
    mean_ratio: float
    value_loss: ValueLoss = ValueLoss()
    normalizes_advantages = True

    def targets(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        rewards = own_rewards(rollout.rewards, rollout.spawned) * (1 - self.mean_ratio)
        rewards = (rewards + self.mean_ratio * rollout.rewards.mean(-1, keepdim=True)) * self.reward_scale
        on = goes_on(rollout.alive, rollout.spawned, rollout.terminated)
        estimates = advantages(rewards, rollout.values, on, rollout.acts, self.gamma, self.lam)
        return estimates, estimates + rollout.values[:, :-1]

    def columns(self, rollout: Rollout) -> Batch:
        batch = super().columns(rollout)
        if self.value_loss.clip is not None:
            batch["values"] = rollout.values[:, :-1]
        return batch

    def gain(self, batch: Batch, decision: Decision) -> Tensor:
        return self._clipped(_ratio(batch, decision), batch["advantages"])

    def _clipped(self, ratio: Tensor, advantages: Tensor) -> Tensor:
        return torch.minimum(ratio * advantages, ratio.clamp(1 - self.clip, 1 + self.clip) * advantages)

    def loss(self, batch: Batch, decision: Decision, env_steps: int) -> Loss:
        acts, count = batch["acts"].to(torch.float32), batch["agent_steps"][0].clamp(min=1)
        ratio = _ratio(batch, decision)
        gain = self._clipped(ratio, batch["advantages"])
        error = self.value_loss.of(batch, decision.values)
        entropy = entropies(decision)

        def mean(values: Tensor) -> Tensor:
            return (values * acts).sum() / count

        followed = batch.get("entropy_weight")
        weight = self.entropy_weight.at(env_steps) if followed is None else followed[0]
        total = mean(-gain + self.value_weight * error - weight * entropy)
        with torch.no_grad():
            stats = {
                "loss/policy": mean(-gain),
                "loss/value": mean(error),
                "policy/entropy": mean(entropy),
                "policy/clipped_fraction": mean(((ratio - 1).abs() > self.clip).to(torch.float32)),
                "policy/kl": mean(ratio - 1 - torch.log(ratio)),
            }
            if followed is not None:
                stats[LOWEST_ENTROPY], stats[HIGHEST_ENTROPY] = map(mean, entropy_ranges(decision))
        return Loss(total, stats)


def _ratio(batch: Batch, decision: Decision) -> Tensor:
    """How much likelier the recorded actions [...] are now than when they were taken."""
    return torch.exp(log_probs(decision, batch["actions"], batch.get("gate_choices")) - batch["log_probs"])
