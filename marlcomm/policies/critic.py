"""A central critic: what each agent may expect, judged from all observations and all actions of a step.

It is there in training only; agents act without it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.indexed import IndexedLinear


@dataclass(frozen=True)
class CriticShape:
    """How critics are built.

    Attributes:
        parameters: shared, one critic for all, to which each agent comes first, or per_agent, one for each slot.
        size: H, width of both hidden layers.
        twin: two critics, or one.
    """

    parameters: Literal["shared", "per_agent"] = "shared"
    size: int = 64
    twin: bool = False


class CentralCritic(nn.Module):
    """Expected returns Q [..., N] of all agents, by an MLP with two hidden layers over the whole team.

    The first layer is cut by senders: agent j with its observation and its action's code contributes C [..., j, i, H]
    to what critic i sees, and i's first hidden layer is relu of the sum over j. So a dead agent is masked by leaving
    its contribution out, and "what if i alone had acted otherwise" costs one more layer, not N critics.

    With shared parameters the contribution of j to i depends on j's distance (j - i) mod N: every agent comes first to
    its own critic, which is also told the number of its slot (worlds need not treat slots alike).
    """

    _distances: Tensor

    def __init__(self, spec: TeamSpec, code_size: int, shape: CriticShape) -> None:
        super().__init__()
        self.agents, self.size = spec.num_agents, shape.size
        kinds = 1 if shape.parameters == "shared" else self.agents
        self.first = nn.ModuleList(_first_layer(spec, code_size, self.agents * shape.size) for _ in range(kinds))
        self.slots = nn.Parameter(torch.zeros(self.agents, shape.size))
        self.second, self.third = AgentLinear(kinds, shape.size, shape.size), AgentLinear(kinds, shape.size, 1)
        slots = torch.arange(self.agents)
        self.register_buffer("_distances", (slots.unsqueeze(1) - slots) % self.agents, persistent=False)

    def contributions(self, observations: Tensor, codes: Tensor, alive: Tensor) -> Tensor:
        """C [..., N, N, H] of each agent (third last axis) to each critic, of [..., N, O], [..., N, W], [..., N]."""
        inputs = torch.cat([observations, codes], dim=-1)
        shape = (*inputs.shape[:-1], self.agents, self.size)
        if len(self.first) == 1:
            by_distance = self.first[0](inputs).view(shape)
            slots = torch.arange(self.agents, device=inputs.device).unsqueeze(1)
            parts = by_distance[..., slots, self._distances, :]
        else:
            each = [layer(inputs[..., j, :]) for j, layer in enumerate(self.first)]
            parts = torch.stack(each, dim=-2).view(shape)
        masked: Tensor = parts * alive[..., None, None]
        return masked

    def judge(self, contributions: Tensor) -> Tensor:
        """Q [..., N] of contributions."""
        hidden = torch.relu(contributions.sum(-3) + self.slots)
        values: Tensor = self.third(torch.relu(self.second(hidden)))
        return values.squeeze(-1)

    def forward(self, observations: Tensor, codes: Tensor, alive: Tensor, own: Tensor | None = None) -> Tensor:
        """Q [..., N] of what all agents do; where `own` is given, of agent i alone doing what `own` says instead."""
        parts = self.contributions(observations, codes, alive)
        if own is not None:
            changed = self.contributions(observations, own, alive)
            parts = torch.where((self._distances == 0).unsqueeze(-1), changed, parts)
        return self.judge(parts)


def _first_layer(spec: TeamSpec, code_size: int, size: int) -> nn.Linear:
    """From one agent's observation and code to its contributions; the sum over agents starts at an MLP's scale."""
    if spec.indexed is None:
        layer = nn.Linear(spec.observation_size + code_size, size)
    else:
        layer = IndexedLinear(spec.indexed, code_size, size)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(spec.num_agents**-0.5)
    return layer


class AgentLinear(nn.Module):
    """A linear layer [..., N, I] -> [..., N, O] with one weight for all agents, or one for each."""

    def __init__(self, kinds: int, inputs: int, outputs: int) -> None:
        super().__init__()
        layers = [nn.Linear(inputs, outputs) for _ in range(kinds)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().t() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, inputs: Tensor) -> Tensor:
        if len(self.weight) == 1:
            return inputs @ self.weight[0] + self.bias[0]
        return torch.einsum("...ni,nio->...no", inputs, self.weight) + self.bias


@dataclass(frozen=True)
class ActorCritic:
    """A team with its critics, and the slow copies of both from which targets are made.

    Attributes:
        policy, critics: what learns.
        target_policy, target_critics: what follows.
    """

    policy: TeamPolicy
    critics: nn.ModuleList
    target_policy: TeamPolicy
    target_critics: nn.ModuleList

    @staticmethod
    def of(policy: TeamPolicy, shape: CriticShape, seed: int) -> ActorCritic:
        """Untrained critics for a policy, by a seed, and copies of both; the policy will act as surely as it can."""
        distribution = policy.distribution
        distribution.narrow(policy.get_submodule("action_head"))
        code_size = distribution.code_size(policy.spec.num_actions) + 2 * policy.gated
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critics = nn.ModuleList(CentralCritic(policy.spec, code_size, shape) for _ in range(1 + shape.twin))
        targets = [copy.deepcopy(network).requires_grad_(False) for network in (policy, critics)]
        return ActorCritic(policy, critics, *targets)  # type: ignore[arg-type]

    @torch.no_grad()
    def follow(self, tau: float) -> None:
        """Move the targets' weights by a share of the way; they get the buffers as they are."""
        for network, target in ((self.policy, self.target_policy), (self.critics, self.target_critics)):
            weights, behind = ([p.data for p in part.parameters()] for part in (network, target))
            torch._foreach_lerp_(behind, weights, tau)
            for buffer, copied in zip(network.buffers(), target.buffers(), strict=True):
                copied.copy_(buffer)
