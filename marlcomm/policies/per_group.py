"""A policy with a network for each group of agent slots, down to one for each slot, whatever policy it is made of."""

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
Slots = slice | list[int]


class PerGroup(TeamPolicy):
    """Policies of one kind, of which each computes the slots of its group only; all talk through one channel.

    A policy that can be among them treats agents one by one: of what `see`, `say`, `hear`, `consider`, `gather`, `take`
    and `decide` are given, the axis of agents (of receivers, where they hear) is cut to some slots, and the answers are
    those slots'. Who hears whom is a rule for the whole team.
    """

    def __init__(self, spec: TeamSpec, settings: PolicySettings, channel: Channel, make: Make) -> None:
        super().__init__(spec, settings, channel)
        slots = settings.slot_groups(spec.num_agents)
        self.groups = nn.ModuleList(make(spec, settings, channel) for _ in slots)
        for policy in self._policies:
            # There is one channel, and one embedding of candidates, and they are named once.
            policy.channel = policy.candidate_head = None  # type: ignore[assignment]
        self._slots = [_cut(group) for group in slots]
        for policy, own in zip(self._policies, self._slots, strict=True):
            policy.slots = own
        places = torch.tensor([slot for group in slots for slot in group]).argsort()
        self._places = None if torch.equal(places, torch.arange(spec.num_agents)) else places.tolist()
        first = self._policies[0]
        self.gated, self.draws_gate, self.rounds = first.gated, first.draws_gate, first.rounds

    @property
    def _policies(self) -> list[TeamPolicy]:
        return list(self.groups)  # type: ignore[arg-type]

    @property
    def action_heads(self) -> list[nn.Module]:
        return [head for policy in self._policies for head in policy.action_heads]

    @property
    def value_heads(self) -> list[nn.Linear]:
        return [head for policy in self._policies for head in policy.value_heads]

    def see(self, observations: Tensor) -> Tensor:
        return self._join([policy.see(observations[..., slots, :]) for policy, slots in self._each()], dim=-2)

    def begin(self, worlds: int) -> Memory:
        return self._policies[0].begin(worlds)

    def say(self, features: Tensor, memory: Memory) -> Tensor:
        return self._join([policy.say(features[:, slots], _of(memory, slots)) for policy, slots in self._each()])

    def hear(
        self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor
    ) -> tuple[Tensor, Memory]:
        return self._states(
            lambda policy, slots: policy.hear(
                features[:, slots], _of(memory, slots), received, audible[:, slots], alive[:, slots]
            )
        )

    def consider(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor) -> Memory:
        return self._memory(
            [
                policy.consider(features[:, slots], _of(memory, slots), received, audible[:, slots], alive[:, slots])
                for policy, slots in self._each()
            ]
        )

    def audible(self, spoke: Tensor) -> Tensor:
        return self._policies[0].audible(spoke)  # a rule of the kind, not of anybody's weights

    def gather(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor) -> Tensor:
        return self._join(
            [
                policy.gather(features[:, slots], _of(memory, slots), received, audible[:, slots])
                for policy, slots in self._each()
            ]
        )

    def take(self, features: Tensor, memory: Memory, read: Tensor, alive: Tensor) -> tuple[Tensor, Memory]:
        return self._states(
            lambda policy, slots: policy.take(features[:, slots], _of(memory, slots), read[:, slots], alive[:, slots])
        )

    def decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        answers = [policy.decide(states[..., slots, :]) for policy, slots in self._each()]
        logits, gates, values = zip(*answers, strict=True)
        gate_logits = self._join(gates, dim=-2) if self.has_gate else None
        return self._join(logits, dim=-2), gate_logits, self._join(values, dim=-1)

    def _each(self) -> list[tuple[TeamPolicy, Slots]]:
        return list(zip(self._policies, self._slots, strict=True))

    def _join(self, parts: Sequence[Tensor], dim: int = 1) -> Tensor:
        """The answers of all groups along the axis of agents, in the order of slots."""
        joined = torch.cat(list(parts), dim=dim)
        if self._places is None:
            return joined
        return joined.index_select(dim, torch.tensor(self._places, device=joined.device))

    def _memory(self, memories: Sequence[Memory]) -> Memory:
        return {name: self._join([one[name] for one in memories]) for name in memories[0]}

    def _states(self, ask: Callable[[TeamPolicy, Slots], tuple[Tensor, Memory]]) -> tuple[Tensor, Memory]:
        states, memories = zip(*(ask(policy, slots) for policy, slots in self._each()), strict=True)
        return self._join(states), self._memory(memories)


def _cut(group: list[int]) -> Slots:
    """What takes the slots of a group out of an axis: without a copy where they follow each other."""
    first = group[0]
    return slice(first, first + len(group)) if group == list(range(first, first + len(group))) else group


def _of(memory: Memory, slots: Slots) -> Memory:
    return {name: value[:, slots] for name, value in memory.items()}
