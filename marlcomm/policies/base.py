"""What every policy shares: agents see, speak through a channel, hear, remember, act and value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.indexed import IndexedLinear
from marlcomm.policies.memory import Memory
from marlcomm.policies.settings import PolicySettings

_NEVER = -1e9  # the logit of what cannot be chosen; finite, so that probability times logarithm is zero


@dataclass(frozen=True)
class Talk:
    """Everything that passed between the agents; meters, losses and ablations read this and nothing else.

    Attributes:
        symbols: [..., N, S] int32, what each agent put on the wire (meaningless where it did not speak).
        spoke: [..., N] bool, who was on the wire.
        losses: the channel's losses, name -> [..., N], one value per message.
        messages: [..., N, D], the vectors given to the channel, without gradient; only in a learner's replay, and only
            for a channel that absorbs them.
    """

    symbols: Tensor
    spoke: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    messages: Tensor | None = None


@dataclass(frozen=True)
class Moment:
    """What a policy is given at a step: [B, N, ...], or [B, T, N, ...] for a whole rollout.

    Attributes:
        observations: [..., N, O].
        alive: [..., N] bool, who sees, speaks and acts.
        spawned: [..., N] bool, whose memory must be wiped first.
        gates: [..., N] bool, who decided at the step before to speak now; None where the policy has no gate.
        noise: [..., N, K] uniform draws for the channel; None where it needs none.
    """

    observations: Tensor
    alive: Tensor
    spawned: Tensor
    gates: Tensor | None = None
    noise: Tensor | None = None


@dataclass(frozen=True)
class Decision:
    """What a policy answers, with the same leading axes as its `Moment`.

    Attributes:
        logits: [..., N, A] of the actions.
        gate_logits: [..., N, 2] of staying silent or speaking at the next step; None where there is no gate.
        values: [..., N] expected returns.
        talk: what was said on the way.
    """

    logits: Tensor
    gate_logits: Tensor | None
    values: Tensor
    talk: Talk


@dataclass(frozen=True)
class Overheard:
    """Recorded words put in place of what some agents would say: [B, N, S] symbols where [B, N] replaced."""

    symbols: Tensor
    replaced: Tensor


class TeamPolicy(nn.Module, ABC):
    """One network shared by all agents of a team, talking through one channel.

    What an agent computes uses its own observation and memory and the vectors it *received*, nothing else of the
    others. A subclass implements `see`, `begin`, `say`, `hear` and `decide`; `step` composes them once for all.

    Attributes:
        gated: whether agents choose to speak; the choice made at a step counts at the next one.
    """

    gated: bool = False
    _others: Tensor
    _speakers: Tensor
    _actors: Tensor

    def __init__(self, spec: TeamSpec, settings: PolicySettings, channel: Channel) -> None:
        super().__init__()
        self.spec = spec
        self.settings = settings
        self.channel = channel
        self.input_size = spec.observation_size + self._identity_size
        self.register_buffer("_others", ~torch.eye(spec.num_agents, dtype=torch.bool), persistent=False)
        for name, slots in (("_speakers", spec.speakers), ("_actors", spec.actors)):
            allowed = torch.tensor(slots or (True,) * spec.num_agents)
            self.register_buffer(name, allowed, persistent=False)

    @property
    def _identity_size(self) -> int:
        return self.spec.num_agents if self.settings.agent_identity else 0

    def input_layer(self, size: int) -> nn.Linear:
        """A linear layer [..., input_size] -> [..., size] for `see` to begin with; it knows indices from features."""
        if self.spec.indexed is None:
            return nn.Linear(self.input_size, size)
        return IndexedLinear(self.spec.indexed, self._identity_size, size)

    @abstractmethod
    def see(self, observations: Tensor) -> Tensor:
        """Features [..., N, F] of inputs [..., N, input_size]; knows no time, so a whole rollout passes at once.

        Where a world observes indices (`TeamSpec.indexed`), inputs are no features: `input_layer` knows what they mean.
        """

    @abstractmethod
    def begin(self, worlds: int) -> Memory:
        """Fresh memory of the agents of B worlds: name -> [B, N, ...]; zero means "nothing happened yet"."""

    @abstractmethod
    def say(self, features: Tensor, memory: Memory) -> Tensor:
        """The vectors [B, N, D] given to the channel."""

    @abstractmethod
    def hear(
        self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor
    ) -> tuple[Tensor, Memory]:
        """The agents' states [B, N, H] and new memory.

        Args:
            features: [B, N, F], what each agent sees.
            memory: what each agent remembers.
            received: [B, N, D], the vector decoded from each *sender*.
            audible: [B, N, N] bool, whether receiver (axis 1) hears sender (axis 2); never itself.
            alive: [B, N] bool; the states of others are of no consequence.
        """

    @abstractmethod
    def decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Action logits [..., N, A], gate logits [..., N, 2] or None, and values [..., N] of states [..., N, H]."""

    def forward(self, moment: Moment) -> Decision:
        """Replay a rollout from its beginning: all tensors [B, T, N, ...]."""
        return self._over_time(moment)

    def step(self, moment: Moment, memory: Memory, overheard: Overheard | None = None) -> tuple[Decision, Memory]:
        """One step of B worlds: all tensors [B, N, ...]."""
        features = self.see(self._inputs(moment.observations))
        states, memory, talk = self._live(features, moment, memory, overheard)
        return Decision(*self._decide(states), talk), memory

    def _over_time(self, moment: Moment) -> Decision:
        # Time goes first inside, so that the slice of a step is contiguous.
        steps = [None if x is None else x.transpose(0, 1) for x in _fields(moment)]
        features = self.see(self._inputs(steps[0].contiguous())).unbind(0)  # type: ignore[union-attr]
        memory = self.begin(moment.alive.shape[0])
        states, talks = [], []
        for time, seen in enumerate(features):
            if self.settings.detach_every and time and time % self.settings.detach_every == 0:
                memory = {name: value.detach() for name, value in memory.items()}
            now = Moment(*(None if x is None else x[time] for x in steps))  # type: ignore[arg-type]
            state, memory, talk = self._live(seen, now, memory)
            states.append(state)
            talks.append(talk)
        logits, gate_logits, values = self._decide(torch.stack(states))
        return Decision(
            logits.transpose(0, 1),
            None if gate_logits is None else gate_logits.transpose(0, 1),
            values.transpose(0, 1),
            stack_talks(talks),
        )

    def _decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """`decide`, where the world leaves a choice: elsewhere action 0, and a shut gate, have probability 1."""
        logits, gate_logits, values = self.decide(states)
        if self.spec.actors is not None:
            logits = _first_only(logits, ~self._actors)
        if self.spec.speakers is not None and gate_logits is not None:
            gate_logits = _first_only(gate_logits, ~self._speakers)
        return logits, gate_logits, values

    def _live(
        self, features: Tensor, moment: Moment, memory: Memory, overheard: Overheard | None = None
    ) -> tuple[Tensor, Memory, Talk]:
        """Speak and hear once: states [B, N, H], new memory, and what was said."""
        if not self.spec.keeps_memory:
            keeps = ~moment.spawned.unsqueeze(-1)
            memory = {name: value * keeps for name, value in memory.items()}
        messages = self.say(features, memory)
        sent = self.channel.transmit(messages, moment.noise)
        symbols, received = sent.symbols, sent.received
        if overheard is not None:
            symbols = torch.where(overheard.replaced.unsqueeze(-1), overheard.symbols, symbols)
            received = self.channel.decode(symbols, moment.noise).to(received.dtype)
        spoke = moment.alive & self._speakers
        if moment.gates is not None:
            spoke = spoke & moment.gates
        if not self.channel.carries:
            spoke = torch.zeros_like(spoke)
        audible = spoke.unsqueeze(-2) & self._others
        states, memory = self.hear(features, memory, received, audible, moment.alive)
        kept = messages.detach() if self.channel.absorbs and torch.is_grad_enabled() else None
        return states, memory, Talk(symbols, spoke, sent.losses, kept)

    def _inputs(self, observations: Tensor) -> Tensor:
        if not self.settings.agent_identity:
            return observations
        identity = torch.eye(self.spec.num_agents, device=observations.device)
        return torch.cat([observations, identity.expand(*observations.shape[:-1], -1)], dim=-1)


def _first_only(logits: Tensor, slots: Tensor) -> Tensor:
    """Logits [..., N, A] that leave some slots [N] the first option only: certain, and without a gradient."""
    later = torch.arange(logits.shape[-1], device=logits.device) > 0
    return logits.masked_fill(slots.unsqueeze(-1) & later, _NEVER)


def _fields(moment: Moment) -> list[Tensor | None]:
    return [moment.observations, moment.alive, moment.spawned, moment.gates, moment.noise]


def first_worlds(decision: Decision, worlds: int) -> Decision:
    """The decision of the first worlds of a batch (its channel losses and messages left out)."""
    gate_logits = None if decision.gate_logits is None else decision.gate_logits[:worlds]
    talk = Talk(decision.talk.symbols[:worlds], decision.talk.spoke[:worlds])
    return Decision(decision.logits[:worlds], gate_logits, decision.values[:worlds], talk)


def stack_talks(talks: list[Talk]) -> Talk:
    """The talks of T steps, each [B, N, ...], as one of [B, T, N, ...]."""
    messages = [talk.messages for talk in talks if talk.messages is not None]
    return Talk(
        symbols=torch.stack([talk.symbols for talk in talks], dim=1),
        spoke=torch.stack([talk.spoke for talk in talks], dim=1),
        losses={name: torch.stack([talk.losses[name] for talk in talks], dim=1) for name in talks[0].losses},
        messages=torch.stack(messages, dim=1) if messages else None,
    )
