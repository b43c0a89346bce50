"""Diagnostics of an evaluation: what a coder of whole links writes, and what entropies the messages seem to have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from marlcomm.policies.coding import FrozenTables
from marlcomm.policies.rollout import Rollout
from marlcomm.wire.bits import Int
from marlcomm.wire.entropy import Tally, before_each
from marlcomm.wire.meter import BandwidthMeter

STREAMED_EPISODES = 500  # every stream is written and read back; more of them would take longer than to play


class Diagnostics:
    """Counts of an evaluation's messages, and the streams of its first 500 episodes.

    Args:
        meter: who has the right to speak, and whether that costs a presence bit.
        tables: what the range coder expects.
    """

    def __init__(self, meter: BandwidthMeter, tables: FrozenTables) -> None:
        self._meter, self._tables = meter, tables
        self._tally = Tally(meter.alphabet)
        self._episodes = self._agent_steps = self._stream_bits = 0

    def add(self, rollout: Rollout, sent: NDArray[np.bool_], seed: int, stream: str) -> None:
        """Take note of a rollout, of which messages sent [B, T, N] were on the wire."""
        self._tally.add(rollout.talk.symbols.cpu().numpy()[sent], before_each(sent))
        if self._episodes >= STREAMED_EPISODES:
            return
        first = slice(STREAMED_EPISODES - self._episodes)
        acts, sent = rollout.acts.cpu().numpy()[first], sent[first]
        self._episodes += len(sent)
        self._agent_steps += int(self._meter.entitled(acts).sum())
        symbols, context = rollout.talk.symbols.cpu().numpy()[first][sent], self._tables.context(rollout, seed, stream)
        context = None if context is None else context[first][sent]
        for link in links(sent):
            self._stream_bits += self._tables.stream_bits(symbols[link], None if context is None else context[link])

    def report(self) -> dict[str, float]:
        """Figures by the names of the glossary; entropies that are not estimable are left out."""
        bits = self._stream_bits + self._agent_steps * self._meter.gated
        return {
            "stream_bits_per_agent_step": bits / max(self._agent_steps, 1),
            "stream_bits_per_episode": bits / max(self._episodes, 1),
            **self._tally.figures(),
        }


def links(sent: NDArray[np.bool_]) -> Iterator[Int]:
    """Of every sender in every episode that said something: where its messages stand among those sent [B, T, N]."""
    worlds, _, senders = np.nonzero(sent)
    order = np.lexsort((senders, worlds))  # stable: an episode's steps stay in order
    ends = np.flatnonzero((np.diff(worlds[order]) != 0) | (np.diff(senders[order]) != 0)) + 1
    return (link for link in np.split(order, ends) if len(link))
