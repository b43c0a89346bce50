"""The headline rate: a code fitted on training-time messages and then frozen, on the messages of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamEnv
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.rollout import Player, Rollout, channel_noise, noise_of_talks
from marlcomm.policies.team import overhear
from marlcomm.wire import conditional_codes
from marlcomm.wire.alphabet import Alphabet, Symbols
from marlcomm.wire.bits import Int, Packets, WireError
from marlcomm.wire.codes import Code
from marlcomm.wire.conditional import ConditionalTables
from marlcomm.wire.conditional_codes import ConditionalCode
from marlcomm.wire.meter import BandwidthMeter
from marlcomm.wire.packets import MessageCode
from marlcomm.wire.prior import learned_tables
from marlcomm.wire.state import rebuilding
from marlcomm.wire.streams import STREAM_HEADER_BYTES, read_stream, write_stream
from marlcomm.wire.tables import Tables

_STREAM = "code"  # the random stream of the episodes that a code is fitted on: neither training's nor evaluation's
_RESAMPLES = 1000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class InContext:
    """A conditional code for messages whose context [M, D] both ends know."""

    code: ConditionalCode
    context: Int

    def lengths(self, symbols: Symbols) -> Int:
        return self.code.lengths(symbols, self.context)

    def encode(self, symbols: Symbols) -> Packets:
        return self.code.encode(symbols, self.context)

    def decode(self, packets: Packets) -> Symbols:
        return self.code.decode(packets, self.context)


@dataclass(frozen=True)
class FrozenTables:
    """Frequency tables that never change again, for a range coder that writes whole links.

    Attributes:
        tables: integers.
        channel: whose context conditional tables need.
    """

    tables: Tables | ConditionalTables
    channel: Channel

    def context(self, rollout: Rollout, seed: int, stream: str) -> Int | None:
        """What both ends know before each message of a rollout, [B, T, N, D]; None where the tables ask for nothing."""
        return None if isinstance(self.tables, Tables) else _context(self.channel, rollout, seed, stream)

    def ideal_bits(self, symbols: Symbols, context: Int | None) -> NDArray[np.float64]:
        """-log2 of the tables' shares of messages [M, S] in contexts [M, D], [M]."""
        if isinstance(self.tables, Tables):
            return self.tables.ideal_bits(symbols)
        assert context is not None
        return self.tables.ideal_bits(symbols, context)

    def stream_bits(self, symbols: Symbols, context: Int | None) -> int:
        """Bits of the words that hold all messages [M, S] of a link; raises `WireError` unless they are read back."""
        if isinstance(self.tables, Tables):
            data = write_stream(self.tables, symbols)
            decoded, size = read_stream(self.tables, data), len(data) - STREAM_HEADER_BYTES
        else:
            assert context is not None
            data = conditional_codes.write_stream(self.tables, symbols, context)
            decoded, size = conditional_codes.read_stream(self.tables, data, context), len(data)
        if not np.array_equal(decoded, symbols):
            raise WireError("the messages of a link were not decoded to what was sent")
        return 8 * size


@dataclass(frozen=True)
class FrozenCode:
    """A code whose tables never change again, and what it must be told of a message's circumstances.

    Attributes:
        code: of single messages.
        channel: whose context a conditional code needs.
        links: tables for whole links, fitted on the same messages; None where there are none.
    """

    code: Code | ConditionalCode
    channel: Channel
    links: FrozenTables | None = None

    def context(self, rollout: Rollout, seed: int, stream: str) -> Int | None:
        """What both ends know before each message of a rollout, [B, T, N, D]; None where the code asks for nothing."""
        return None if isinstance(self.code, Code) else _context(self.channel, rollout, seed, stream)

    def context_of(self, noise: Tensor | None) -> Int | None:
        """What both ends know before messages whose noise is [..., K], [..., D]; None where nothing is asked for."""
        return None if isinstance(self.code, Code) else _as_array(self.channel.context(noise))

    def of(self, context: Int | None) -> MessageCode:
        """The code of messages with contexts [M, D]."""
        if isinstance(self.code, Code):
            return self.code
        assert context is not None
        return InContext(self.code, context)

    @property
    def digest(self) -> str:
        """The hash of the tables."""
        return self.code.digest if isinstance(self.code, Code) else self.code.tables.digest

    def state(self) -> dict[str, Any]:
        """Plain JSON data that rebuilds the code."""
        if isinstance(self.code, Code):
            return {"kind": "marginal", "tables": self.code.state()}
        return {"kind": "conditional", "tables": self.code.tables.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any], channel: Channel) -> FrozenCode:
        """The code that `state` describes; raises `WireError` where it describes none for this channel."""
        with rebuilding("a frozen code"):
            kind, tables = state["kind"], state["tables"]
        if kind not in ("marginal", "conditional"):
            raise WireError(f"a frozen code is marginal or conditional, got {kind!r}")
        rebuilt = Code.from_state(tables) if kind == "marginal" else ConditionalTables.from_state(tables)
        if rebuilt.alphabet != channel.alphabet():
            raise WireError("the code is of another alphabet than the channel's")
        if isinstance(rebuilt, Code):
            return cls(rebuilt, channel)
        if rebuilt.levels != channel.context_levels:
            raise WireError(
                f"the code is for contexts of {rebuilt.levels} levels, the channel's have {channel.context_levels}"
            )
        return cls(ConditionalCode(rebuilt), channel)


def _context(channel: Channel, rollout: Rollout, seed: int, stream: str) -> Int | None:
    """What both ends know before each message of a rollout, [B, T R, N, D]; None where that is nothing."""
    steps, agents = rollout.acts.shape[1:]
    rounds = rollout.talk.spoke.shape[1] // steps
    draws = channel_noise(channel, seed, stream, rollout.worlds, rollout.episodes, steps, agents, rounds)
    return _as_array(channel.context(noise_of_talks(draws, rounds)))


def _as_array(context: Tensor | None) -> Int | None:
    return None if context is None else context.cpu().numpy()


def frozen_code(
    env: TeamEnv, policy: TeamPolicy, seed: int, episodes: int, *, learned_prior: bool = False
) -> FrozenCode:
    """The shortest code for what a trained team says, with integer tables that never change again.

    The team plays `episodes` episodes of a stream of their own. Codes are fitted on what it says in one half of them,
    and the one that writes the other half in the fewest bits is taken; one that knows the context of messages is among
    them where the channel offers its tables, and with `learned_prior` one on a learned prior. So are the tables for
    streams of whole links, unless there are floats.
    """
    channel, worlds = policy.channel, torch.arange(episodes, device=env.device)
    with channel.evaluation():
        rollout, messages = overhear(Player(env, policy, seed, _STREAM), worlds)
    sent = rollout.sent.cpu().numpy()
    halves = slice(None, episodes // 2), slice(episodes // 2, None)
    symbols = rollout.talk.symbols.cpu().numpy()
    fitted_on, chosen_on = (symbols[half][sent[half]] for half in halves)
    alphabet, context = channel.alphabet(), None
    codes = [FrozenCode(shortest_code(alphabet, fitted_on, chosen_on, learned_prior), channel)]
    tables = None if alphabet.has_raw else shortest_tables(alphabet, fitted_on, chosen_on, learned_prior)
    links = [] if tables is None else [FrozenTables(tables, channel)]
    conditional = channel.conditional_tables(messages[halves[0]][torch.as_tensor(sent[halves[0]])])
    if conditional is not None:
        codes.append(FrozenCode(ConditionalCode(conditional), channel))
        links.append(FrozenTables(conditional, channel))
        context = _context(channel, rollout, seed, _STREAM)
        assert context is not None
        context = context[halves[1]][sent[halves[1]]]
    code = min(codes, key=lambda code: int(code.of(context).lengths(chosen_on).sum()))
    best = min(links, key=lambda tables: float(tables.ideal_bits(chosen_on, context).sum()), default=None)
    return replace(code, links=best)


def shortest_code(alphabet: Alphabet, fitted_on: Symbols, chosen_on: Symbols, learned_prior: bool = False) -> Code:
    """Of all codes for an alphabet, fitted on messages [M, S], the one that is shortest on other messages [M', S]."""
    codes = [Code(alphabet)]
    if any(slot.kind != "raw" for slot in alphabet.slots) and len(fitted_on):
        names = ["huffman", *(["rice"] if any(slot.kind == "signed" for slot in alphabet.slots) else [])]
        names += ["learned"] * learned_prior
        codes += [Code.fit(alphabet, fitted_on, name) for name in names]
        codes.append(Code.fit(alphabet, fitted_on, "huffman", joint=True))
    return min(codes, key=lambda code: int(code.lengths(chosen_on).sum()))


def shortest_tables(alphabet: Alphabet, fitted_on: Symbols, chosen_on: Symbols, learned_prior: bool = False) -> Tables:
    """Tables of slots or of whole messages, fitted on messages [M, S], whichever say more about others, [M', S]."""
    found = [Tables.fit(alphabet, fitted_on, joint=joint) for joint in (False, True)]
    if learned_prior:
        found.append(learned_tables(alphabet, fitted_on))
    return min(found, key=lambda tables: float(tables.ideal_bits(chosen_on).sum()))


@dataclass
class CodedEpisodes:
    """Bits and rights to speak of each episode, under a frozen code.

    Attributes:
        meter: who has the right to speak, and whether that costs a presence bit.
        bits, agent_steps: lists of vectors, one number for each episode.
        messages: how many there were.
    """

    meter: BandwidthMeter
    bits: list[NDArray[np.float64]] = field(default_factory=list)
    agent_steps: list[Int] = field(default_factory=list)
    messages: int = 0

    def add(self, lengths: Int, sent: NDArray[np.bool_], acts: NDArray[np.bool_]) -> None:
        """Add episodes: the bits of messages [M], who sent them [B, T, N], who acts [B, T, N]."""
        agent_steps = self.meter.entitled(acts).sum((1, 2))
        payload = np.bincount(np.nonzero(sent)[0], weights=lengths, minlength=len(sent))
        self.bits.append(payload + agent_steps * self.meter.gated)
        self.agent_steps.append(agent_steps)
        self.messages += len(lengths)

    def report(self, seed: int) -> dict[str, float]:
        """Figures by the names of the glossary, with 95 % intervals by bootstrap over episodes."""
        bits, agent_steps = np.concatenate(self.bits), np.concatenate(self.agent_steps)
        figures: dict[str, float] = {}
        for unit, counts in (("agent_step", agent_steps), ("episode", np.ones_like(agent_steps))):
            value, low, high = _ratio_with_interval(seed, bits, counts)
            figures |= {
                f"coded_bits_per_{unit}": value,
                f"coded_bits_per_{unit}_low": low,
                f"coded_bits_per_{unit}_high": high,
            }
        if self.messages:
            figures["coded_bits_per_message"] = float(bits.sum()) / self.messages
        return figures


def _ratio_with_interval(seed: int, bits: NDArray[np.float64], units: Int) -> tuple[float, float, float]:
    """Bits over units of all episodes, and the ends of its interval."""
    from scipy import stats  # a second to import, in every process that plays

    def ratio(bits: NDArray[np.float64], units: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(bits.sum(axis) / np.maximum(units.sum(axis), 1))

    value = float(ratio(bits, units.astype(np.float64)))
    if len(bits) < 2:
        return value, value, value
    found = stats.bootstrap(
        (bits, units.astype(np.float64)),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return value, float(found.low), float(found.high)
