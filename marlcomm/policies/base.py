"""What every policy shares: agents see, speak through a channel, hear, remember, act and value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel, Transmission
from marlcomm.channels.readout import ReadoutChannel
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.candidates import CandidateHead
from marlcomm.policies.distributions import CATEGORICAL, distribution_over
from marlcomm.policies.indexed import first_layer
from marlcomm.policies.memory import FEWEST_ROWS, Memory
from marlcomm.policies.packing import Packing
from marlcomm.policies.records import (
    Decision,
    Hearing,
    Instead,
    Moment,
    Overheard,
    Shuffled,
    Talk,
    each_tensor,
    joined,
    stack_talks,
)
from marlcomm.policies.settings import PolicySettings


class TeamPolicy(nn.Module, ABC):
    """One network shared by all agents of a team, talking through one channel.

    What an agent computes uses its own observation and memory and the vectors it *received*, nothing else of the
    others. A subclass implements `see`, `begin`, `say`, `hear` and `decide`; `step` composes them once for all. One
    that can have its channel at the read-out implements `gather` and `take` too, one that talks several times at a
    step `consider`.

    Attributes:
        gated: whether agents choose to speak; the choice made at a step counts at the next one.
        rounds: R, how often all talk at each step; a gate is for all rounds of a step.
        draws_gate: whether that choice is drawn and learned from; also where it is not obeyed, as published.
        distribution: the family that actions are drawn from; it makes the head of a policy (`distribution.head`).
        slots: of the agents that it computes; all, unless it is one among others (`PerGroup`).
    """

    gated: bool = False
    draws_gate: bool = False
    rounds: int = 1
    slots: slice | list[int] = slice(None)
    _others: Tensor
    _speakers: Tensor
    _actors: Tensor

    def __init__(self, spec: TeamSpec, settings: PolicySettings, channel: Channel) -> None:
        super().__init__()
        self.spec = spec
        self.settings = settings
        self.channel = channel
        self.distribution = distribution_over(spec.actions, spec.choices)
        self.input_size = spec.own_size + self._identity_size
        self.candidate_head = None if spec.candidates is None else CandidateHead(spec, settings.candidate_size)
        self.register_buffer("_others", ~torch.eye(spec.num_agents, dtype=torch.bool), persistent=False)
        for name, slots in (("_speakers", spec.speakers), ("_actors", spec.actors)):
            allowed = torch.tensor(slots or (True,) * spec.num_agents)
            self.register_buffer(name, allowed, persistent=False)

    @property
    def _identity_size(self) -> int:
        return self.spec.num_agents if self.settings.agent_identity else 0

    def input_layer(self, size: int) -> nn.Linear:
        """A linear layer [..., input_size] -> [..., size] for `see` to begin with; it knows indices from features."""
        return first_layer(self.spec, self._identity_size, size)

    def action_layer(self, size: int) -> nn.Module:
        """A layer for `decide`, [..., size] -> what it gives of actions."""
        if self.candidate_head is None:
            return self.distribution.head(size, self.spec.num_actions)
        return nn.Linear(size, self.settings.candidate_size)

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

    def consider(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor) -> Memory:
        """What the agents know after a round of talk that is not the last one of its step, for the next one.

        The arguments are those of `hear`, which has the last word on what is remembered.
        """
        raise NotImplementedError(f"{type(self).__name__} talks once at a step")

    def gather(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor) -> Tensor:
        """What each receiver makes of all that it heard, [B, N, W], which the bottleneck then lets it know.

        The arguments are those of `hear`; of receivers that hear nobody the answer is of no consequence.
        """
        raise NotImplementedError(f"{type(self).__name__} has no read-out")

    def take(self, features: Tensor, memory: Memory, read: Tensor, alive: Tensor) -> tuple[Tensor, Memory]:
        """`hear`, where the channel is at the read-out: of the others an agent knows what it read, [B, N, W].

        That is zero for who heard nobody.
        """
        raise NotImplementedError(f"{type(self).__name__} has no read-out")

    @abstractmethod
    def decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Parameters [..., N, P] of actions, gate logits [..., N, 2] or None, values [..., N] of states [..., N, H].

        Where actions are candidates, in place of the parameters queries [..., N, E], which they are compared with.
        """

    @property
    def action_heads(self) -> list[nn.Module]:
        """What gives the parameters of the actions' distribution, made by `distribution.head`."""
        return [self.get_submodule("action_head")]

    @property
    def value_heads(self) -> list[nn.Linear]:
        """The linear layers whose outputs are the values."""
        return [cast(nn.Linear, self.get_submodule("value_head"))]

    @property
    def bottleneck(self) -> Channel | None:
        """The channel that stands at the read-out; None where the channel is at the sender."""
        return self.channel.bottleneck if isinstance(self.channel, ReadoutChannel) else None

    @property
    def quantiser(self) -> Channel:
        """The channel that learns, wherever it stands: what a link of float32 numbers does needs no learning."""
        return self.channel if self.bottleneck is None else self.bottleneck

    @property
    def has_gate(self) -> bool:
        """Whether agents draw a gate choice at each step, be it obeyed or not."""
        return self.gated or self.draws_gate

    @property
    def remembers(self) -> bool:
        """Whether agents have a memory."""
        return bool(self.begin(1))

    def forward(self, moment: Moment, memory: Memory | None = None, running: Tensor | None = None) -> Decision:
        """Replay a rollout from its beginning, or from a memory: all tensors [B, T, N, ...].

        Steps where running [B, T] is False are after the end of a world: they need not be computed, and what is
        answered there, zeros perhaps, is of no consequence.
        """
        running = torch.ones_like(moment.alive[..., 0]) if running is None else running
        played = Packing(running, least=-(-FEWEST_ROWS // self.spec.num_agents))
        packed = moment.each(played.pack)
        features = self.see(self._inputs(packed.observations))
        memory = self.begin(len(running)) if memory is None else memory
        states, talk = self._over_time(features, packed, memory, played) if memory else self._at_once(features, packed)
        answers = self._decide(states, self._candidates(packed.observations))
        logits, gate_logits, values = (None if answer is None else played.spread(answer) for answer in answers)
        talk = each_tensor(talk, lambda x: played.spread(x).flatten(1, 2))
        return Decision(cast(Tensor, logits), gate_logits, cast(Tensor, values), talk, self.distribution)

    @torch.no_grad()
    def remember(self, moment: Moment) -> Memory:
        """What agents remember after a rollout [B, T, N, ...] from its beginning, which may have no step."""
        memory = self.begin(moment.alive.shape[0])
        if memory:
            for now in moment.steps():
                memory = self.step(now, memory)[1]
        return memory

    def step(
        self, moment: Moment, memory: Memory, instead: Instead | Sequence[Instead] | None = None
    ) -> tuple[Decision, Memory]:
        """One step of B worlds: all tensors [B, N, ...]; what is heard instead is given for each round of talk."""
        if isinstance(instead, Instead):
            instead = (instead,) * self.rounds
        features = self.see(self._inputs(moment.observations))
        states, memory, talk = self._live(features, moment, memory, instead)
        return Decision(*self._decide(states, self._candidates(moment.observations)), talk, self.distribution), memory

    def entitled(self, alive: Tensor) -> Tensor:
        """Who of the living [..., N] has the right to speak."""
        return alive & self._speakers

    def audible(self, spoke: Tensor) -> Tensor:
        """Whether receiver (next to last axis) hears sender (last axis), [..., N, N], where senders [..., N] spoke."""
        return spoke.unsqueeze(-2) & self._others

    @torch.no_grad()
    def rehear(self, talk: Talk, sender: int, received: Tensor) -> Decision:
        """What all would decide had they heard `received` [B, D] from the slot `sender`, and all else as it was.

        The talk, [B, N, ...], is one whose hearing was kept; the decision still refers to it.
        """
        assert talk.hearing is not None
        then = talk.hearing
        heard = then.received.clone()
        heard[:, sender] = received
        states, _ = self.hear(then.features, then.memory, heard, then.audible, then.alive)
        return Decision(*self._decide(states, then.candidates), talk, self.distribution)

    def _at_once(self, features: Tensor, packed: Moment) -> tuple[Tensor, Talk]:
        """States [M, N, H] and talks [M, R, N, ...] of M steps that do not depend on each other."""
        states, _, talk = self._live(features, packed, {})
        return states, stack_talks([talk])

    def _over_time(self, features: Tensor, packed: Moment, memory: Memory, played: Packing) -> tuple[Tensor, Talk]:
        """States [M, N, H] and talks [M, R, N, ...] of packed steps, from the memory of all worlds."""
        memory = {name: value[played.order[: played.counts[0]]] for name, value in memory.items()}
        states, talks = list[Tensor](), list[Talk]()
        for time, (seen, now) in enumerate(
            zip(features.split(played.counts), packed.split(played.counts), strict=True)
        ):
            if self.settings.detach_every and time and time % self.settings.detach_every == 0:
                memory = {name: value.detach() for name, value in memory.items()}
            if time and len(seen) < len(states[-1]):
                memory = {name: value[: len(seen)] for name, value in memory.items()}
            state, memory, talk = self._live(seen, now, memory)
            states.append(state)
            talks.append(talk)
        return torch.cat(states), stack_talks([joined(talks, torch.cat)])

    def _decide(self, states: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """`decide`, where the world leaves a choice: elsewhere the idle action, and a shut gate, are certain."""
        logits, gate_logits, values = self.decide(states)
        if self.candidate_head is not None:
            logits = self.candidate_head(logits, candidates)
        logits = self.distribution.possible(logits)
        if self.spec.actors is not None:
            logits = self.distribution.idle(logits, ~self._actors)
        if self.spec.speakers is not None and gate_logits is not None:
            gate_logits = CATEGORICAL.idle(gate_logits, ~self._speakers)
        return logits, gate_logits, values

    def _live(
        self, features: Tensor, moment: Moment, memory: Memory, instead: Sequence[Instead] | None = None
    ) -> tuple[Tensor, Memory, Talk]:
        """Speak and hear, round after round: states [B, N, H], new memory, and what was said."""
        if not self.spec.keeps_memory:
            keeps = ~moment.spawned.unsqueeze(-1)
            memory = {name: value * keeps for name, value in memory.items()}
        before = None
        for index in range(self.rounds - 1):
            words = None if instead is None else instead[index]
            talk, received, audible = self._talk(features, moment, memory, index, words)
            memory = self.consider(features, memory, received, audible, moment.alive)
            before = replace(talk, before=before)
        words = None if instead is None else instead[-1]
        talk, received, audible = self._talk(features, moment, memory, self.rounds - 1, words)
        talk = replace(talk, before=before)
        if self.bottleneck is None:
            states, memory = self.hear(features, memory, received, audible, moment.alive)
            return states, memory, talk
        gathered = self.gather(features, memory, received, audible)
        read = self.bottleneck.transmit(gathered, moment.noise)
        hears = audible.any(-1) & moment.alive
        states, memory = self.take(features, memory, read.received * hears.unsqueeze(-1), moment.alive)
        readout = Talk(read.symbols, hears, read.losses, self._kept(gathered))
        return states, memory, replace(talk, readout=readout)

    def _talk(
        self, features: Tensor, moment: Moment, memory: Memory, index: int, instead: Instead | None
    ) -> tuple[Talk, Tensor, Tensor]:
        """One round: what was said, the vectors received of each sender [B, N, D], and who hears whom [B, N, N]."""
        draws = None if moment.noise is None else moment.noise.unflatten(-1, (self.rounds, -1))[..., index, :]
        messages = self.say(features, memory)
        sent = self.channel.transmit(messages, draws)
        symbols, received = sent.symbols, sent.received
        if isinstance(instead, Overheard):
            symbols = torch.where(instead.replaced.unsqueeze(-1), instead.symbols, symbols)
            received = self.channel.decode(symbols, draws).to(received.dtype)
        spoke = self.entitled(moment.alive)
        if moment.gates is not None:
            spoke = spoke & moment.gates
        if not self.channel.carries:
            spoke = torch.zeros_like(spoke)
        if isinstance(instead, Shuffled):
            received = instead.received(received, spoke)
        audible = self.audible(spoke)
        if self.bottleneck is not None:
            return Talk(symbols, spoke), received, audible
        hearing = self._hearing(sent, features, memory, audible, moment)
        talk = Talk(symbols, spoke, sent.losses, self._kept(messages), search=sent.search, hearing=hearing)
        return talk, received, audible

    def _kept(self, vectors: Tensor) -> Tensor | None:
        """What a learner keeps of the vectors given to the quantiser, for it to absorb."""
        return vectors.detach() if self.quantiser.absorbs and torch.is_grad_enabled() else None

    def _hearing(
        self, sent: Transmission, features: Tensor, memory: Memory, audible: Tensor, moment: Moment
    ) -> Hearing | None:
        """What is kept of a hearing, where other messages of it are to be judged."""
        if sent.search is None:
            return None
        remembered = {name: value.detach() for name, value in memory.items()}
        candidates = self._candidates(moment.observations)
        return Hearing(features.detach(), remembered, sent.received.detach(), audible, moment.alive, candidates)

    def _candidates(self, observations: Tensor) -> Tensor:
        """What there is to choose among, [..., N, K F]; no numbers at all where actions are no candidates."""
        return observations[..., self.spec.own_size :]

    def _inputs(self, observations: Tensor) -> Tensor:
        observations = observations[..., : self.spec.own_size]
        if not self.settings.agent_identity:
            return observations
        identity = torch.eye(self.spec.num_agents, device=observations.device)
        return torch.cat([observations, identity.expand(*observations.shape[:-1], -1)], dim=-1)
