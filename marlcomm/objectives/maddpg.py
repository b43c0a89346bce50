"""Multi-agent deep deterministic policy gradient (Lowe et al. 2017), with messages in the actors.

Rows are windows of recorded episodes: S = R + L + 1 steps of what was seen, L steps of what was learned from. R steps
before them only bring back memory; the last moment is the one that the last action led to. Messages and memory are
computed anew from what was seen, so the gradient of a listener's critic reaches whoever it listened to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor
from torch.func import functional_call

from marlcomm import noise
from marlcomm.objectives.base import Batch, Loss, channel_loss
from marlcomm.objectives.credit import message_credit
from marlcomm.objectives.returns import goes_on, own_rewards, squashed, unsquashed
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.critic import ActorCritic, CentralCritic
from marlcomm.policies.distributions import CATEGORICAL, Relaxation
from marlcomm.policies.records import Decision, Moment
from marlcomm.policies.rollout import Rollout, channel_noise, entropies

WINDOWS = ("observations", "alive", "spawned", "gates")  # of T + 1 moments, the others of T actions


@dataclass(frozen=True)
class Answers:
    """What actors and their targets say about a window.

    Attributes:
        now: the actors' decision [B, L, N, ...] where they acted.
        then: the targets' decision [B, L, N, ...] a step later, without gradient.
        draws, target_draws: uniform [B, L, N, W], for the actions of both.
    """

    now: Decision
    then: Decision
    draws: Tensor
    target_draws: Tensor


@dataclass(frozen=True)
class MADDPG:
    """A squared error of the critics, and minus what they say of the actors' new actions.

    Attributes:
        gamma: discount.
        regularizer: weight of the mean square of logits, or of the means of box actions.
        relaxation: how actions are drawn with a gradient.
        target_noise: standard deviation of the noise on the targets' box actions.
        together: whether an actor is judged beside the others' new actions, not beside the recorded ones.
        reward_scale: rewards are multiplied by this before anything else.
        mean_ratio: share of the team's mean reward in an agent's own.
        squashes: whether critics say what `squashed` makes of values.
    """

    gamma: float
    regularizer: float
    relaxation: Relaxation = field(default_factory=Relaxation)
    target_noise: float = 0.0
    together: bool = False
    reward_scale: float = 1.0
    mean_ratio: float = 0.0
    squashes: bool = False

    def columns(self, rollout: Rollout) -> Batch:
        """What the replay keeps of episodes: name -> [B, T + 1, N, ...] (`WINDOWS`), [B, T, N, ...] or [B]."""
        rewards = own_rewards(rollout.rewards, rollout.spawned) * (1 - self.mean_ratio)
        rewards = (rewards + self.mean_ratio * rollout.rewards.mean(-1, keepdim=True)) * self.reward_scale
        last = rollout.last
        batch = {
            "world": rollout.worlds,
            "lengths": rollout.lengths,
            "observations": torch.cat([rollout.observations, last.observations.unsqueeze(1)], dim=1),
            "alive": rollout.alive,
            "spawned": rollout.spawned,
            "acts": rollout.acts,
            "spoke": _first_rounds(rollout),
            "actions": rollout.actions,
            "rewards": rewards,
            "goes_on": goes_on(rollout.alive, rollout.spawned, rollout.terminated).bool(),
        }
        if rollout.gates is not None and last.gates is not None:
            batch["gates"] = torch.cat([rollout.gates, last.gates.unsqueeze(1)], dim=1)
        if rollout.gate_choices is not None:
            batch["gate_choices"] = rollout.gate_choices
        return batch

    @torch.no_grad()
    def targets(self, networks: ActorCritic, batch: Batch, answers: Answers) -> Tensor:
        """Targets r + gamma Q'(o', a') [B, L, N], a' drawn from the target actors; of twin critics the lower one.

        Where critics say h(Q), it is h(r + gamma h^-1(Q'(o', a'))).
        """
        length = batch["acts"].shape[1]
        relaxation = Relaxation(self.relaxation.hard, self.relaxation.temperature, self.target_noise)
        codes = _relaxed(answers.then, answers.target_draws, relaxation)
        observations, alive = batch["observations"][:, -length:], batch["alive"][:, -length:]
        judged = [critic(observations, codes, alive) for critic in networks.target_critics]
        following = judged[0] if len(judged) == 1 else torch.minimum(*judged)
        if self.squashes:
            following = unsquashed(following)
        targets = batch["rewards"] + self.gamma * batch["goes_on"] * following
        return squashed(targets) if self.squashes else targets

    def loss(self, networks: ActorCritic, batch: Batch, answers: Answers) -> Loss:
        """One sum, whose gradient for the critics is that of their error and for the policy that of all else."""
        acts, count = batch["acts"].to(torch.float32), batch["agent_steps"][0].clamp(min=1)
        decision, targets = answers.now, self.targets(networks, batch, answers)
        rows = _judged_rows(batch, answers, _recorded(decision, batch))

        def mean(values: Tensor) -> Tensor:
            return (values * acts).sum() / count

        judged = [critic(rows["observations"], rows["recorded"], rows["alive"]) for critic in networks.critics]
        error = torch.stack([mean((values - targets).square()) for values in judged]).sum()
        first = cast(CentralCritic, networks.critics[0])
        gain = mean(CriticsWord(first, self.relaxation, self.together).gain(rows, decision))
        penalty = mean(_penalty(decision))
        said = decision.talk.quantised
        # Hard actions would hardly ever change with a message, and then by all that there is.
        judge = CriticsWord(first, replace(self.relaxation, hard=False), self.together)
        credit = message_credit(networks.policy, judge, rows, said)
        messages = batch["messages"][0] * networks.policy.rounds
        rate = channel_loss(networks.policy.quantiser, said, batch["acts"], messages, credit)
        stats = {
            "loss/policy": -gain,
            "loss/value": error,
            "policy/entropy": mean(entropies(decision)),
            "policy/penalty": penalty,
            "critic/value": mean(judged[0]),
            "critic/target": mean(targets),
        }
        stats = {name: value.detach() for name, value in stats.items()}
        return Loss(error - gain + self.regularizer * penalty + rate.total, stats | rate.stats)


@dataclass(frozen=True)
class CriticsWord:
    """A critic's word on new actions, with a gradient for the actions only.

    Attributes:
        critic: whose.
        relaxation: how actions are drawn.
        together: as in `MADDPG`.
    """

    critic: CentralCritic
    relaxation: Relaxation
    together: bool = False

    def gain(self, batch: Batch, decision: Decision) -> Tensor:
        """Q [..., N] of what a decision makes of each agent's draws; it is to go up. Any rows [..., N] of agents."""
        codes = _relaxed(decision, batch["draws"], self.relaxation)
        others = codes.detach() if self.together else batch["recorded"]
        weights = {name: value.detach() for name, value in self.critic.named_parameters()}
        values: Tensor = functional_call(self.critic, weights, (batch["observations"], others, batch["alive"], codes))
        return values


def _first_rounds(rollout: Rollout) -> Tensor:
    """Who spoke in the first round of each step, [B, T, N]: a gate is for all rounds of a step."""
    spoke, steps = rollout.talk.quantised.spoke, rollout.acts.shape[1]
    return spoke[:, :: spoke.shape[1] // steps]


def answers(networks: ActorCritic, batch: Batch, seed: int) -> Answers:
    """What both say of the windows, with draws of their own, keyed by (seed, update, row)."""
    policy, (rows, updates) = networks.policy, (batch["row"], batch["update"])
    steps, (length, agents) = batch["alive"].shape[1], batch["acts"].shape[1:]
    before = steps - length - 1
    window = Moment(
        batch["observations"],
        batch["alive"],
        batch["spawned"],
        batch.get("gates"),
        channel_noise(policy.channel, seed, "replay", rows, updates, steps, agents, policy.rounds),
    )
    with torch.no_grad():
        then = _replay(networks.target_policy, window, before + 1)
    now = _replay(policy, window.between(0, steps - 1), before)
    size = policy.distribution.code_size(policy.spec.num_actions) + 2 * policy.has_gate
    keys = [noise.world_keys(seed, f"replay/{name}", rows, updates) for name in ("actions", "targets")]
    return Answers(now, then, *(noise.uniform(key, length, agents, size) for key in keys))


def _replay(policy: TeamPolicy, window: Moment, before: int) -> Decision:
    """What a policy decides in a window [B, S, N, ...], with the memory of its first steps."""
    memory = policy.remember(window.between(0, before))
    decision: Decision = policy(window.between(before, window.alive.shape[1]), memory)
    return decision


def _relaxed(decision: Decision, draws: Tensor, relaxation: Relaxation) -> Tensor:
    """Codes [..., N, W] of new actions, and gate choices where there is a gate."""
    if decision.gate_logits is None:
        return decision.distribution.relaxed(decision.logits, draws, relaxation)
    for_actions, for_gates = draws.split([draws.shape[-1] - 2, 2], dim=-1)
    actions = decision.distribution.relaxed(decision.logits, for_actions, relaxation)
    return torch.cat([actions, CATEGORICAL.relaxed(decision.gate_logits, for_gates, relaxation)], dim=-1)


def _recorded(decision: Decision, batch: Batch) -> Tensor:
    """Codes [B, L, N, W] of what was done."""
    codes = decision.distribution.code(decision.logits, batch["actions"])
    if decision.gate_logits is None:
        return codes
    return torch.cat([codes, CATEGORICAL.code(decision.gate_logits, batch["gate_choices"].long())], dim=-1)


def _penalty(decision: Decision) -> Tensor:
    penalty = decision.distribution.penalty(decision.logits)
    return penalty if decision.gate_logits is None else penalty + CATEGORICAL.penalty(decision.gate_logits)


def _judged_rows(batch: Batch, answers: Answers, recorded: Tensor) -> Batch:
    """What a judge is given of a window: columns [B, L, N, ...]."""
    length = batch["acts"].shape[1]
    seen = {name: batch[name][:, -length - 1 : -1] for name in ("observations", "alive")}
    return {"acts": batch["acts"], "draws": answers.draws, "recorded": recorded, **seen}
