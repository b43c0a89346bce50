"""What every policy shares: agents see, speak through a channel, hear, remember, act and value."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel, Search, Transmission
from marlcomm.channels.readout import ReadoutChannel
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.candidates import CandidateHead
from marlcomm.policies.distributions import CATEGORICAL, ActionDistribution, distribution_over
from marlcomm.policies.indexed import IndexedLinear
from marlcomm.policies.memory import Memory
from marlcomm.policies.settings import PolicySettings


@dataclass(frozen=True)
class Hearing:
    """What `TeamPolicy.hear` was given, [..., N, ...] without gradient: enough to hear something else instead.

    Attributes:
        features, memory, received, audible, alive: as there.
        candidates: [..., N, K F], what there is to choose among; nothing where actions are no candidates.
    """

    features: Tensor
    memory: Memory
    received: Tensor
    audible: Tensor
    alive: Tensor
    candidates: Tensor

    def at(self, rows: Tensor) -> Hearing:
        """The moments [M] of a whole rollout where rows [B, T] is True."""
        memory = {name: value[rows] for name, value in self.memory.items()}
        others = {name: value[rows] for name, value in vars(self).items() if name != "memory"}
        return Hearing(memory=memory, **others)


@dataclass(frozen=True)
class Talk:
    """Everything that passed between the agents; meters, losses and ablations read this and nothing else.

    Attributes:
        symbols: [..., N, S] int32, what each agent put on the wire (meaningless where it did not speak).
        spoke: [..., N] bool, who was on the wire.
        losses: the channel's losses, name -> [..., N], one value per message.
        messages: [..., N, D], the vectors given to the channel, without gradient; only in a learner's replay, and only
            for a channel that absorbs them.
        readout: where the channel is at the read-out, what passed it: the symbols, losses and gathered vectors of each
            *receiver*, and in `spoke` who heard anybody. None where the channel is at the sender.
        search: what else might have been sent; only in a learner's replay, and only for a channel that wants credit.
        hearing: what all heard, where there is a search.
        before: what was said in the round before, at the same step; None in the first one. Over a whole rollout (see
            `stack_talks`) it is None, and the time axis holds the rounds of each step one after the other.
    """

    symbols: Tensor
    spoke: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    messages: Tensor | None = None
    readout: Talk | None = None
    search: Search | None = None
    hearing: Hearing | None = None
    before: Talk | None = None

    @property
    def rounds(self) -> list[Talk]:
        """The talks of a step, first to last."""
        return [self] if self.before is None else [*self.before.rounds, self]

    @property
    def quantised(self) -> Talk:
        """What passed the channel, wherever that is: what was read at the read-out, or else what was sent."""
        return self if self.readout is None else self.readout

    def at(self, rows: Tensor) -> Talk:
        """What was said and heard at the moments [M] of a whole rollout where rows [B, T] is True."""
        hearing = None if self.hearing is None else self.hearing.at(rows)
        return Talk(self.symbols[rows], self.spoke[rows], hearing=hearing)


@dataclass(frozen=True)
class Moment:
    """What a policy is given at a step: [B, N, ...], or [B, T, N, ...] for a whole rollout.

    Attributes:
        observations: [..., N, O].
        alive: [..., N] bool, who sees, speaks and acts.
        spawned: [..., N] bool, whose memory must be wiped first.
        gates: [..., N] bool, who decided at the step before to speak now; None where the policy has no gate.
        noise: [..., N, R K] uniform draws for the channel, K for each round of talk; None where it needs none.
    """

    observations: Tensor
    alive: Tensor
    spawned: Tensor
    gates: Tensor | None = None
    noise: Tensor | None = None

    def between(self, start: int, stop: int) -> Moment:
        """The steps from `start` to before `stop` of a rollout."""
        return Moment(*(None if x is None else x[:, start:stop] for x in _fields(self)))  # type: ignore[arg-type]

    def steps(self) -> Iterator[Moment]:
        """The moments [B, N, ...] of a rollout, one after the other."""
        for time in range(self.alive.shape[1]):
            yield Moment(*(None if x is None else x[:, time] for x in _fields(self)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Decision:
    """What a policy answers, with the same leading axes as its `Moment`.

    Attributes:
        logits: [..., N, P], parameters of the actions' distribution: logits of discrete ones (P = A).
        gate_logits: [..., N, 2] of staying silent or speaking at the next step; None where there is no gate.
        values: [..., N] expected returns.
        talk: what was said on the way.
        distribution: the family that the actions are drawn from.
    """

    logits: Tensor
    gate_logits: Tensor | None
    values: Tensor
    talk: Talk
    distribution: ActionDistribution = CATEGORICAL


@dataclass(frozen=True)
class Overheard:
    """Recorded words put in place of what some agents would say: [B, N, S] symbols where [B, N] replaced."""

    symbols: Tensor
    replaced: Tensor


@dataclass(frozen=True)
class Shuffled:
    """Everybody hears each sender of another world: messages as they are, that say nothing of one's own world.

    Attributes:
        places: [B, N], draws that put the worlds in a row for each sender; each world hears the next one.
        among: [B] bool, worlds whose messages are heard.
    """

    places: Tensor
    among: Tensor

    def received(self, received: Tensor, spoke: Tensor) -> Tensor:
        """What is heard, [B, N, D], of what was received of each sender, who `spoke` [B, N]."""
        speaks = spoke & self.among.unsqueeze(-1)
        row = (self.places + ~speaks).argsort(0)  # draws are below 1, so speakers come first
        following = (row.argsort(0) + 1) % speaks.sum(0).clamp(min=1)
        return received.gather(0, row.gather(0, following).unsqueeze(-1).expand_as(received))


# What agents may hear in place of what is said to them.
Instead = Overheard | Shuffled


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
    """

    gated: bool = False
    draws_gate: bool = False
    rounds: int = 1
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
        if self.spec.indexed is None:
            return nn.Linear(self.input_size, size)
        return IndexedLinear(self.spec.indexed, self._identity_size, size)

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

    def forward(self, moment: Moment, memory: Memory | None = None) -> Decision:
        """Replay a rollout from its beginning, or from a memory: all tensors [B, T, N, ...]."""
        memory = self.begin(moment.alive.shape[0]) if memory is None else memory
        return self._over_time(moment, memory) if memory else self._at_once(moment)

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

    def _at_once(self, moment: Moment) -> Decision:
        """A rollout without memory: its steps do not depend on each other, so they pass like so many worlds."""
        shape = moment.alive.shape[:2]
        flat = Moment(*(None if x is None else x.flatten(0, 1) for x in _fields(moment)))  # type: ignore[arg-type]
        decision, _ = self.step(flat, {})
        logits, values = decision.logits.unflatten(0, shape), decision.values.unflatten(0, shape)
        gate_logits = None if decision.gate_logits is None else decision.gate_logits.unflatten(0, shape)
        talk = _each_tensor(stack_talks([decision.talk]), lambda x: x.unflatten(0, shape).flatten(1, 2))
        return Decision(logits, gate_logits, values, cast(Talk, talk), decision.distribution)

    def _over_time(self, moment: Moment, memory: Memory) -> Decision:
        # Time goes first inside, so that the slice of a step is contiguous.
        steps = [None if x is None else x.transpose(0, 1) for x in _fields(moment)]
        observations = steps[0].contiguous()  # type: ignore[union-attr]
        features = self.see(self._inputs(observations)).unbind(0)
        states, talks = [], []
        for time, seen in enumerate(features):
            if self.settings.detach_every and time and time % self.settings.detach_every == 0:
                memory = {name: value.detach() for name, value in memory.items()}
            now = Moment(*(None if x is None else x[time] for x in steps))  # type: ignore[arg-type]
            state, memory, talk = self._live(seen, now, memory)
            states.append(state)
            talks.append(talk)
        logits, gate_logits, values = self._decide(torch.stack(states), self._candidates(observations))
        return Decision(
            logits.transpose(0, 1),
            None if gate_logits is None else gate_logits.transpose(0, 1),
            values.transpose(0, 1),
            stack_talks(talks),
            self.distribution,
        )

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


def _fields(moment: Moment) -> list[Tensor | None]:
    return [moment.observations, moment.alive, moment.spawned, moment.gates, moment.noise]


def _each_tensor(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A record of tensors, however deep they are in it, with a change made to each."""
    if isinstance(record, Tensor):
        return change(record)
    if isinstance(record, dict):
        return {name: _each_tensor(value, change) for name, value in record.items()}
    if isinstance(record, (Talk, Search, Hearing)):
        return replace(record, **{name: _each_tensor(value, change) for name, value in vars(record).items()})
    return record


def first_worlds(decision: Decision, worlds: int) -> Decision:
    """The decision of the first worlds of a batch (its channel losses and messages left out)."""
    gate_logits = None if decision.gate_logits is None else decision.gate_logits[:worlds]
    talk = _first(decision.talk, worlds)
    return Decision(decision.logits[:worlds], gate_logits, decision.values[:worlds], talk, decision.distribution)


def _first(talk: Talk, worlds: int) -> Talk:
    readout = None if talk.readout is None else _first(talk.readout, worlds)
    return Talk(talk.symbols[:worlds], talk.spoke[:worlds], readout=readout)


def stack_talks(talks: list[Talk]) -> Talk:
    """The talks of T steps, each [B, N, ...], as one of [B, T R, N, ...]: the R rounds of a step follow each other."""
    talks = [talk for step in talks for talk in step.rounds]
    messages = [talk.messages for talk in talks if talk.messages is not None]
    readouts = [talk.readout for talk in talks if talk.readout is not None]
    searches = [talk.search for talk in talks if talk.search is not None]
    hearings = [talk.hearing for talk in talks if talk.hearing is not None]
    return Talk(
        symbols=torch.stack([talk.symbols for talk in talks], dim=1),
        spoke=torch.stack([talk.spoke for talk in talks], dim=1),
        losses=_stacked([talk.losses for talk in talks]),
        messages=torch.stack(messages, dim=1) if messages else None,
        readout=stack_talks(readouts) if readouts else None,
        search=_stack_searches(searches) if searches else None,
        hearing=_stack_hearings(hearings) if hearings else None,
    )


def each_talk(acts: Tensor, spoke: Tensor) -> Tensor:
    """Whose actions count [B, T, N], at each of the talks that spoke [B, T R, N] are of: [B, T R, N]."""
    rounds = spoke.shape[1] // acts.shape[1]
    return acts if rounds == 1 else acts.repeat_interleave(rounds, dim=1)


def join_moments(moments: list[Moment]) -> Moment:
    """The moments of some worlds [B, ...] after others."""
    joined: dict[str, Any] = dict(vars(moments[0]))
    for name, first in joined.items():
        joined[name] = None if first is None else torch.cat([getattr(moment, name) for moment in moments])
    return Moment(**joined)


def join_talks(talks: list[Talk]) -> Talk:
    """The talks of some worlds [B, ...] after others, as played: without what only a learner's replay keeps."""
    readouts = [talk.readout for talk in talks if talk.readout is not None]
    return Talk(
        symbols=torch.cat([talk.symbols for talk in talks]),
        spoke=torch.cat([talk.spoke for talk in talks]),
        losses={name: torch.cat([talk.losses[name] for talk in talks]) for name in talks[0].losses},
        readout=join_talks(readouts) if readouts else None,
    )


def _stacked(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}


def _stack_searches(searches: list[Search]) -> Search:
    received = torch.stack([search.received for search in searches], dim=1)
    return Search(received, _stacked([search.terms for search in searches]))


def _stack_hearings(hearings: list[Hearing]) -> Hearing:
    tensors = _stacked([{name: x for name, x in vars(hearing).items() if name != "memory"} for hearing in hearings])
    return Hearing(memory=_stacked([hearing.memory for hearing in hearings]), **tensors)
