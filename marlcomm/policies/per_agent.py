"""A policy with a network for each agent slot, whatever policy it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.memory import Memory
from marlcomm.policies.settings import PolicySettings

Make = Callable[[TeamSpec, PolicySettings, Channel], TeamPolicy]


class PerAgent(TeamPolicy):
    """N policies of one kind, of which each computes its own slot only; all talk through one channel.

    A policy that can be among them treats agents one by one: of what `see`, `say`, `hear`, `consider`, `gather`, `take`
    and `decide` are given, the axis of agents (of receivers, where they hear) is cut to one slot, and the answer is
    that slot's. Who hears whom is a rule for the whole team.
    """

    def __init__(self, spec: TeamSpec, settings: PolicySettings, channel: Channel, make: Make) -> None:
        super().__init__(spec, settings, channel)
        self.agents = nn.ModuleList(make(spec, settings, channel) for _ in range(spec.num_agents))
        for policy in self._policies:
            # There is one channel, and one embedding of candidates, and they are named once.
            policy.channel = policy.candidate_head = None  # type: ignore[assignment]
        first = self._policies[0]
        self.gated, self.draws_gate, self.rounds = first.gated, first.draws_gate, first.rounds

    @property
    def _policies(self) -> list[TeamPolicy]:
        return list(self.agents)  # type: ignore[arg-type]

    @property
    def action_heads(self) -> list[nn.Module]:
        return [head for policy in self._policies for head in policy.action_heads]

    @property
    def value_heads(self) -> list[nn.Linear]:
        return [head for policy in self._policies for head in policy.value_heads]

    def see(self, observations: Tensor) -> Tensor:
        return self._each(lambda policy, slot: policy.see(observations[..., slot, :]), dim=-2)

    def begin(self, worlds: int) -> Memory:
        return self._policies[0].begin(worlds)

    def say(self, features: Tensor, memory: Memory) -> Tensor:
        return self._each(lambda policy, slot: policy.say(features[:, slot], _of(memory, slot)))

    def hear(
        self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor
    ) -> tuple[Tensor, Memory]:
        return self._states(
            lambda policy, slot: policy.hear(
                features[:, slot], _of(memory, slot), received, audible[:, slot], alive[:, slot]
            )
        )

    def consider(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor) -> Memory:
        return _joined(
            [
                policy.consider(features[:, slot], _of(memory, slot), received, audible[:, slot], alive[:, slot])
                for policy, slot in self._slots()
            ]
        )

    def audible(self, spoke: Tensor) -> Tensor:
        return self._policies[0].audible(spoke)  # a rule of the kind, not of anybody's weights

    def gather(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor) -> Tensor:
        return self._each(
            lambda policy, slot: policy.gather(features[:, slot], _of(memory, slot), received, audible[:, slot])
        )

    def take(self, features: Tensor, memory: Memory, read: Tensor, alive: Tensor) -> tuple[Tensor, Memory]:
        return self._states(
            lambda policy, slot: policy.take(features[:, slot], _of(memory, slot), read[:, slot], alive[:, slot])
        )

    def decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        answers = [policy.decide(states[..., slot, :]) for policy, slot in self._slots()]
        logits, gates, values = zip(*answers, strict=True)
        gate_logits = torch.cat(gates, dim=-2) if self.has_gate else None
        return torch.cat(logits, dim=-2), gate_logits, torch.cat(values, dim=-1)

    def _slots(self) -> list[tuple[TeamPolicy, slice]]:
        return [(policy, slice(index, index + 1)) for index, policy in enumerate(self._policies)]

    def _each(self, ask: Callable[[TeamPolicy, slice], Tensor], dim: int = 1) -> Tensor:
        return torch.cat([ask(policy, slot) for policy, slot in self._slots()], dim=dim)

    def _states(self, ask: Callable[[TeamPolicy, slice], tuple[Tensor, Memory]]) -> tuple[Tensor, Memory]:
        states, memories = zip(*(ask(policy, slot) for policy, slot in self._slots()), strict=True)
        return torch.cat(states, dim=1), _joined(memories)


def _joined(memories: Sequence[Memory]) -> Memory:
    return {name: torch.cat([one[name] for one in memories], dim=1) for name in memories[0]}


def _of(memory: Memory, slot: slice) -> Memory:
    return {name: value[:, slot] for name, value in memory.items()}
