"""A central critic: what each agent may expect, judged from all observations and all actions of a step.

It is there in training only; agents act without it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.indexed import first_layer


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

    The first layer is cut by senders: agent j with its observation and its action's code adds to the first hidden layer
    [..., N, H] of every critic i. So a dead agent is masked by adding nothing, and "what if i alone had acted
    otherwise" is one more term, not N critics.

    Where actions are candidates, their number says nothing: the critic is told what was chosen, a mean over candidates
    where the code is a mean over numbers, and not the others.

    With shared parameters what j adds to i depends on j's distance (j - i) mod N: every agent comes first to its own
    critic, which is also told the number of its slot (worlds need not treat slots alike).
    """

    def __init__(self, spec: TeamSpec, code_size: int, shape: CriticShape) -> None:
        super().__init__()
        self.agents, self.size = spec.num_agents, shape.size
        self.own_size, self.candidates, self.actions = spec.own_size, spec.candidates, spec.num_actions
        if spec.candidates is not None:
            code_size += spec.candidates.width - spec.num_actions
        self.code_size = code_size
        kinds = 1 if shape.parameters == "shared" else self.agents
        self.first = nn.ModuleList(_first_layer(spec, code_size, self.agents * shape.size) for _ in range(kinds))
        self.slots = nn.Parameter(torch.zeros(self.agents, shape.size))
        self.second, self.third = AgentLinear(kinds, shape.size, shape.size), AgentLinear(kinds, shape.size, 1)

    def forward(self, observations: Tensor, codes: Tensor, alive: Tensor, own: Tensor | None = None) -> Tensor:
        """Q [..., N] of what all agents see [..., N, O] and do [..., N, W], where they are alive [..., N].

        Where `own` [..., N, W] is given, critic i is told that agent i alone does what that says instead.
        """
        seen, shown = observations[..., : self.own_size], observations[..., self.own_size :]
        if self.candidates is not None:
            vectors = self.candidates.vectors(shown)
            codes, own = self._chosen(vectors, codes), None if own is None else self._chosen(vectors, own)
        hidden = self._heard(torch.cat([seen, codes], dim=-1), alive.unsqueeze(-1)) + self.slots
        if own is not None:
            hidden = hidden + alive.unsqueeze(-1) * self._difference(own - codes)
        values: Tensor = self.third(torch.relu(self.second(torch.relu(hidden))))
        return values.squeeze(-1)

    def _chosen(self, candidates: Tensor, codes: Tensor) -> Tensor:
        """Codes that say what was chosen of candidates [..., N, K, F] in place of its number; gates stay gates."""
        numbers, gates = codes[..., : self.actions], codes[..., self.actions :]
        return torch.cat([(numbers.unsqueeze(-2) @ candidates).squeeze(-2), gates], dim=-1)

    def _heard(self, inputs: Tensor, alive: Tensor) -> Tensor:
        """The first hidden layers [..., N, H] from what all agents [..., N, I] add to them."""
        if len(self.first) > 1:
            each = [layer(inputs[..., j, :]) * alive[..., j, :] for j, layer in enumerate(self.first)]
            joined: Tensor = torch.stack(each).sum(0).unflatten(-1, (self.agents, self.size))
            return joined
        added = self.first[0](inputs) * alive
        by_distance = added.split(self.size, dim=-1)
        return torch.stack([part.roll(-d, dims=-2) for d, part in enumerate(by_distance)]).sum(0)

    def _difference(self, codes: Tensor) -> Tensor:
        """What other codes [..., N, W] of one's own change in one's own critic: the first layer is linear in them."""
        layers = [cast(nn.Linear, layer) for layer in self.first]
        weights = [layer.weight[:, -self.code_size :].unflatten(0, (self.agents, self.size)) for layer in layers]
        if len(weights) == 1:
            return nn.functional.linear(codes, weights[0][0])
        own = torch.stack([weight[i] for i, weight in enumerate(weights)])
        return torch.einsum("...nw,nhw->...nh", codes, own)


def _first_layer(spec: TeamSpec, code_size: int, size: int) -> nn.Linear:
    """From one agent's observation and code to its contributions; the sum over agents starts at an MLP's scale."""
    layer = first_layer(spec, code_size, size)
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
        for head in policy.action_heads:
            distribution.narrow(head)
        code_size = distribution.code_size(policy.spec.num_actions) + 2 * policy.has_gate
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
