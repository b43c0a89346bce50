"""What agents see, say, hear and decide at a step: the records that policies, rollouts and learners share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from marlcomm.channels.base import Search
from marlcomm.policies.distributions import CATEGORICAL, ActionDistribution
from marlcomm.policies.memory import Memory


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

    def each(self, change: Callable[[Tensor], Tensor]) -> Moment:
        """The same with a change made to every tensor."""
        gates, noise = (None if x is None else change(x) for x in (self.gates, self.noise))
        return Moment(change(self.observations), change(self.alive), change(self.spawned), gates, noise)

    def between(self, start: int, stop: int) -> Moment:
        """The steps from `start` to before `stop` of a rollout."""
        return self.each(lambda x: x[:, start:stop])

    def split(self, counts: list[int]) -> Iterator[Moment]:
        """The parts of so many rows each that follow each other along the first axis."""
        parts = {name: x.split(counts) for name, x in vars(self).items() if x is not None}
        for index in range(len(counts)):
            yield Moment(**{name: part[index] for name, part in parts.items()})

    def steps(self) -> Iterator[Moment]:
        """The moments [B, N, ...] of a rollout, one after the other."""
        for time in range(self.alive.shape[1]):
            yield self.each(lambda x, time=time: x[:, time])  # type: ignore[misc]


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
        places: [B, N], draws that put the worlds in a row for each sender; each world hears the next one. A sender
            that speaks nowhere else is heard as somebody else of another world, or as zeros where nobody speaks there.
        among: [B] bool, worlds whose messages are heard.
    """

    places: Tensor
    among: Tensor

    def received(self, received: Tensor, spoke: Tensor) -> Tensor:
        """What is heard, [B, N, D], of what was received of each sender, who `spoke` [B, N]."""
        speaks = spoke & self.among.unsqueeze(-1)
        row = (self.places + ~speaks).argsort(0)  # draws are below 1, so speakers come first
        following = (row.argsort(0) + 1) % speaks.sum(0).clamp(min=1)
        heard = received.gather(0, row.gather(0, following).unsqueeze(-1).expand_as(received))
        for world, sender in (speaks & (speaks.sum(0) == 1)).nonzero().tolist():  # it would hear itself
            others = self.places.masked_fill(~speaks, 1.0).index_fill(0, torch.tensor(world, device=row.device), 1.0)
            anybody = others.flatten().argmin()
            heard[world, sender] = received.flatten(0, 1)[anybody] * (others.flatten()[anybody] < 1)
        return heard


# What agents may hear in place of what is said to them.
Instead = Overheard | Shuffled


def each_tensor(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A record of tensors, however deep they are in it, with a change made to each."""
    if isinstance(record, Tensor):
        return change(record)
    if isinstance(record, dict):
        return {name: each_tensor(value, change) for name, value in record.items()}
    if isinstance(record, (Talk, Search, Hearing)):
        return replace(record, **{name: each_tensor(value, change) for name, value in vars(record).items()})
    return record


def first_worlds(decision: Decision, worlds: int) -> Decision:
    """The decision of the first worlds of a batch (its channel losses and messages left out)."""
    gate_logits = None if decision.gate_logits is None else decision.gate_logits[:worlds]
    talk = _first(decision.talk, worlds)
    return Decision(decision.logits[:worlds], gate_logits, decision.values[:worlds], talk, decision.distribution)


def _first(talk: Talk, worlds: int) -> Talk:
    readout = None if talk.readout is None else _first(talk.readout, worlds)
    return Talk(talk.symbols[:worlds], talk.spoke[:worlds], readout=readout)


def joined(records: Sequence[Any], join: Callable[[list[Tensor]], Tensor]) -> Any:
    """Records of one kind as one, whose tensors are those of all, joined; what only some of them have is of those."""
    records = [record for record in records if record is not None]
    if not records or isinstance(records[0], Tensor):
        return join(list(records)) if records else None
    if isinstance(records[0], dict):
        return {name: joined([record[name] for record in records], join) for name in records[0]}
    columns = {name: joined([getattr(record, name) for record in records], join) for name in vars(records[0])}
    return replace(records[0], **columns)


def stack_talks(talks: list[Talk]) -> Talk:
    """The talks of T steps, each [B, N, ...], as one of [B, T R, N, ...]: the R rounds of a step follow each other."""
    rounds = [replace(talk, before=None) for step in talks for talk in step.rounds]
    stacked: Talk = joined(rounds, partial(torch.stack, dim=1))
    return stacked


def each_talk(acts: Tensor, spoke: Tensor) -> Tensor:
    """Whose actions count [B, T, N], at each of the talks that spoke [B, T R, N] are of: [B, T R, N]."""
    rounds = spoke.shape[1] // acts.shape[1]
    return acts if rounds == 1 else acts.repeat_interleave(rounds, dim=1)
