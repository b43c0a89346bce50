"""What agents may expect, judged in training only: by whom, from what, and in which units.

The value head of a policy is a local critic: it knows what the agent itself sees, remembers and heard. A central one
sees the whole team (Lowe et al. 2017, Yu et al. 2022); agents act without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.indexed import first_layer
from marlcomm.policies.records import Decision
from marlcomm.policies.rollout import Rollout, channel_noise, noise_of_talks
from marlcomm.registry import ConfigError

_WORLDS_AT_ONCE = 64
PAID = "paid"  # the column of what agents were last paid, where the critic is told of it
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class ValueSettings:
    """Who judges, and in which units.

    Attributes:
        critic: local, the policy's value head; central, a network that sees all observations; or that network with the
            messages of the step too.
        size: H, the width of its layers.
        normalization: whether critics learn standardised targets, and whether their last layers follow at once.
        decay: the share of the old statistics that each round keeps.
        rewards: whether the network is told what each agent's last step was paid.
    """

    critic: Literal["local", "central", "central_with_messages"] = "local"
    size: int = 128
    normalization: Literal["none", "running", "popart"] = "none"
    decay: float = 0.99
    rewards: bool = False

    @property
    def plain(self) -> bool:
        """Whether the policy's own values are all there is."""
        return self.critic == "local" and self.normalization == "none"


class CentralValue(nn.Module):
    """Values [..., N] of all agents, from what the whole team sees at a step (and heard, and was paid).

    Each living agent j is embedded with the number of its slot; agent i is judged by its own embedding e_i beside the
    sum of all::

        e_j = relu(W [o_j, u_j, slot_j]),  h_i = relu(A e_i + C sum_j e_j / sqrt(N)),  v_i = w relu(V h_i)

    So the cost grows with N, not with its square, and what is in an empty slot adds nothing. Candidates (the end of an
    observation where actions are things that are seen) are left out.
    """

    def __init__(self, spec: TeamSpec, told_size: int, size: int) -> None:
        super().__init__()
        self.agents, self.own_size = spec.num_agents, spec.own_size
        added = told_size + spec.num_agents
        self.embed = first_layer(spec, added, size)
        self.own, self.team = nn.Linear(size, size), nn.Linear(size, size, bias=False)
        self.second = nn.Linear(size, size)
        self.value_head = nn.Linear(size, 1)

    def forward(self, observations: Tensor, told: Tensor, alive: Tensor) -> Tensor:
        """Values [..., N] of observations [..., N, O], what is told besides [..., N, U] and who is alive [..., N]."""
        slots = torch.eye(self.agents, device=observations.device).expand(*alive.shape, -1)
        inputs = torch.cat([observations[..., : self.own_size], told, slots], dim=-1)
        each = torch.relu(self.embed(inputs)) * alive.unsqueeze(-1)
        team = each.sum(-2, keepdim=True) * self.agents**-0.5
        hidden = torch.relu(self.own(each) + self.team(team))
        values: Tensor = self.value_head(torch.relu(self.second(hidden)))
        return values.squeeze(-1)


class ValueNorm(nn.Module):
    """Running mean and variance of value targets, without the bias of their first value (Yu et al. 2022).

    Before the first targets they are 0 and 1. They are kept as they are used, and in float32: RLlib sends states so.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("weight", torch.zeros(()))

    def update(self, count: float, total: float, squares: float) -> None:
        """Take in a round's targets: their number, sum and sum of squares over all runners.

        Where nobody lived, or a target is infinite or NaN, there is nothing to take in.
        """
        if not count or not math.isfinite(total + squares):
            return
        mean = total / count
        variance = max(squares / count - mean**2, 0.0)
        self.weight.mul_(self.decay).add_(1 - self.decay)
        share = (1 - self.decay) / self.weight
        apart = mean - self.mean
        self.mean.add_(share * apart)
        self.variance.copy_((1 - share) * (self.variance + share * apart.square()) + share * variance)

    @property
    def scale(self) -> Tensor:
        """The standard deviation, a scalar."""
        return self.variance.clamp(min=_LEAST_VARIANCE).sqrt()

    def restore(self, outputs: Tensor) -> Tensor:
        """Values in units of rewards from a critic's outputs."""
        return outputs * self.scale + self.mean


class TeamValues(nn.Module):
    """The values that learners use in place of the policy's own: those of a critic, in units of (scaled) rewards.

    Attributes:
        critic: sees the whole team; None: the policy's value head.
        norm: what the critic's outputs are standardised by; None: by nothing.
        hears: whether the critic is given the messages of the step.
        paid: whether it is given what agents were last paid.
    """

    def __init__(self, policy: TeamPolicy, settings: ValueSettings, seed: int) -> None:
        super().__init__()
        self.hears = settings.critic == "central_with_messages"
        self.paid = settings.rewards
        self.critic: CentralValue | None = None
        if settings.critic != "local":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                heard = policy.rounds * policy.quantiser.message_size if self.hears else 0
                self.critic = CentralValue(policy.spec, heard + self.paid, settings.size)
        self.norm = None if settings.normalization == "none" else ValueNorm(settings.decay)
        self.follows = settings.normalization == "popart"
        if self.follows:
            self._heads(policy)

    def rollout(self, policy: TeamPolicy, rollout: Rollout, seed: int, stream: str = "train") -> Rollout:
        """The rollout with these values [B, T + 1, N]."""
        clock = perf_counter()
        with torch.no_grad():
            values = rollout.values
            if self.critic is not None:
                rows = torch.arange(len(values)).split(_WORLDS_AT_ONCE)
                values = torch.cat([self._judge(policy, rollout, some, seed, stream) for some in rows])
            if self.norm is not None:
                values = self.norm.restore(values)
        seconds = rollout.seconds | {"policy": rollout.seconds.get("policy", 0.0) + perf_counter() - clock}
        return replace(rollout, values=values, seconds=seconds)

    def decision(
        self, policy: TeamPolicy, batch: dict[str, Tensor], decision: Decision, noise: Tensor | None
    ) -> Decision:
        """The decision about recorded rows [B, T, N, ...] with these values; the critic sees what was recorded."""
        values = decision.values
        if self.critic is not None:
            messages = self._messages(policy, batch["symbols"], batch["spoke"], noise)
            values = self.critic(batch["observations"], _with_rewards(messages, batch.get(PAID)), batch["alive"])
        if self.norm is not None:
            values = self.norm.restore(values)
        return replace(decision, values=values)

    def columns(self, rollout: Rollout) -> dict[str, Tensor]:
        """What learners need of a rollout for these values besides an objective's columns, [B, T, N]."""
        return {PAID: _last_rewards(rollout.rewards)[:, :-1]} if self.paid else {}

    @torch.no_grad()
    def learn_units(self, policy: TeamPolicy, count: float, total: float, squares: float) -> None:
        """Take in a round's value targets; under popart all values stay what they were (Hessel et al. 2019)."""
        if self.norm is None:
            return
        mean, scale = self.norm.mean.clone(), self.norm.scale
        self.norm.update(count, total, squares)
        if self.follows:
            for head in self._heads(policy):
                head.weight.mul_(scale / self.norm.scale)
                head.bias.mul_(scale).add_(mean - self.norm.mean).div_(self.norm.scale)

    def _heads(self, policy: TeamPolicy) -> list[nn.Linear]:
        """The last layers, whose outputs are standardised values."""
        if self.critic is not None:
            return [self.critic.value_head]
        try:
            return policy.value_heads
        except AttributeError:
            raise ConfigError(
                "algorithm.value_normalization: got 'popart', wanted 'running' or 'none': this policy does not say by "
                "which linear layer it values (TeamPolicy.value_heads)"
            ) from None

    def _judge(self, policy: TeamPolicy, rollout: Rollout, rows: Tensor, seed: int, stream: str) -> Tensor:
        """Outputs [b, T + 1, N] of the critic for some worlds of a rollout, the time after the last action included."""
        assert self.critic is not None
        last = rollout.last
        observations = torch.cat([rollout.observations[rows], last.observations[rows].unsqueeze(1)], dim=1)
        alive = rollout.alive[rows]
        said, then = rollout.talk.quantised, rollout.last_talk.quantised
        symbols = torch.cat([said.symbols[rows], then.symbols[rows]], dim=1)
        spoke = torch.cat([said.spoke[rows], then.spoke[rows]], dim=1)
        noise = None
        if self.hears:
            keys = rollout.worlds[rows], rollout.episodes[rows]
            steps, agents = alive.shape[1:]
            noise = channel_noise(policy.channel, seed, stream, *keys, steps, agents, policy.rounds)
        paid = _last_rewards(rollout.rewards[rows]) if self.paid else None
        told = _with_rewards(self._messages(policy, symbols, spoke, noise), paid)
        values: Tensor = self.critic(observations, told, alive)
        return values

    @torch.no_grad()
    def _messages(self, policy: TeamPolicy, symbols: Tensor, spoke: Tensor, noise: Tensor | None) -> Tensor:
        """What the channel's symbols [B, T R, N, S] say, of all rounds of a step: [B, T, N, R W].

        No numbers for a critic that does not hear. Without gradient: what is expected of a message must not change what
        is said.
        """
        rounds = spoke.unflatten(1, (-1, policy.rounds))
        if not self.hears:
            return spoke.new_zeros((*rounds[:, :, 0].shape, 0), dtype=torch.float32)
        vectors = policy.quantiser.decode(symbols, noise_of_talks(noise, policy.rounds)).float()
        said = torch.where(rounds.unsqueeze(-1), vectors.unflatten(1, (-1, policy.rounds)), 0.0)
        return said.movedim(2, -2).flatten(-2)


def _last_rewards(rewards: Tensor) -> Tensor:
    """What rewards [B, T, N] paid for the step before each, and for the last one, [B, T + 1, N]; at first nothing."""
    return nn.functional.pad(rewards, (0, 0, 1, 0))


def _with_rewards(messages: Tensor, paid: Tensor | None) -> Tensor:
    """Messages [B, T, N, W] and, where the critic is told, in logarithms what was paid [B, T, N]: [B, T, N, W + 1]."""
    if paid is None:
        return messages
    return torch.cat([messages, (paid.sign() * paid.abs().log1p()).unsqueeze(-1)], dim=-1)
