"""Counting what is transmitted: one record that adds up, and the figures made of it.

A *message* is the sent talk of a living agent. An *agent step* is a living agent's right to speak, used or not; who may
never speak has no agent steps, but receives what others say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from marlcomm.wire.alphabet import Alphabet
from marlcomm.wire.codes import Code
from marlcomm.wire.entropy import Kept, joint_figures, kept_histogram, together


@dataclass(frozen=True)
class BitCounts:
    """Sums over any stretch of talk. Counts of several runners or rounds are added; entropies never are.

    Attributes:
        env_steps, episodes, agent_steps, messages: how many of each.
        nominal_bits: of all messages, by a code without statistics.
        prefix_bits: of all messages, by the prefix code; presence bits included where agents may stay silent.
        received_bits: prefix bits times the living agents that each message reached.
        signed_symbols: symbols of signed slots, in all messages.
        clipped_symbols: those among them at the limit of their slot, where a quantiser without one might have gone on.
        histogram: how often each message occurred; None where it is not kept, because it would only grow: of
            floats, and of more than 2**16 different messages (those of 16-bit casts, say).
    """

    env_steps: int = 0
    episodes: int = 0
    agent_steps: int = 0
    messages: int = 0
    nominal_bits: float = 0.0
    prefix_bits: int = 0
    received_bits: int = 0
    signed_symbols: int = 0
    clipped_symbols: int = 0
    histogram: Kept = field(default_factory=Counter)

    def __add__(self, other: BitCounts) -> BitCounts:
        return BitCounts(
            self.env_steps + other.env_steps,
            self.episodes + other.episodes,
            self.agent_steps + other.agent_steps,
            self.messages + other.messages,
            self.nominal_bits + other.nominal_bits,
            self.prefix_bits + other.prefix_bits,
            self.received_bits + other.received_bits,
            self.signed_symbols + other.signed_symbols,
            self.clipped_symbols + other.clipped_symbols,
            together(self.histogram, other.histogram),
        )


class BandwidthMeter:
    """Reads symbols off the wire, never a config.

    Args:
        alphabet: of the channel's messages.
        gated: whether agents may stay silent; then each agent step costs one presence bit.
        code: the prefix code; the alphabet's default if None.
        speakers: [N], which agents may speak; all of them if None.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        gated: bool = False,
        code: Code | None = None,
        speakers: Sequence[bool] | None = None,
    ) -> None:
        self.alphabet = alphabet
        self.gated = gated
        self.code = Code(alphabet) if code is None else code
        self.speakers = None if speakers is None else np.asarray(speakers, dtype=np.bool_)

    def entitled(self, acts: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Who has the right to speak [..., N] among agents that acts [..., N]."""
        return acts if self.speakers is None else acts & self.speakers

    def count(
        self,
        symbols: NDArray[np.int32],
        spoke: NDArray[np.bool_],
        acts: NDArray[np.bool_],
        env_steps: int,
        episodes: int,
        rounds: int = 1,
    ) -> BitCounts:
        """Count symbols [..., N, S] where spoke [..., N], among agents that acts [..., N].

        Where agents talk several `rounds` at a step, all arrays hold each of them: every one is a message, but the
        right to speak, and whether it is used, is of the step.
        """
        sent = spoke & acts
        messages = symbols[sent]
        lengths = self.code.lengths(messages)
        present = acts.sum(axis=-1, keepdims=True)
        listeners = np.broadcast_to(present - 1, acts.shape)
        entitled = self.entitled(acts)
        agent_steps = int(entitled.sum()) // rounds
        presence = agent_steps if self.gated else 0
        presence_heard = int((listeners * entitled).sum()) // rounds if self.gated else 0
        signed, clipped = at_limit(self.alphabet, messages)
        return BitCounts(
            env_steps=env_steps,
            episodes=episodes,
            agent_steps=agent_steps,
            messages=len(messages),
            nominal_bits=float(self.alphabet.nominal_bits(messages).sum()),
            prefix_bits=int(lengths.sum()) + presence,
            received_bits=int((lengths * listeners[sent]).sum()) + presence_heard,
            signed_symbols=signed,
            clipped_symbols=clipped,
            # Hardly two float messages are ever equal.
            histogram=None if self.alphabet.has_raw else kept_histogram(messages),
        )

    def report(self, counts: BitCounts) -> dict[str, float]:
        """Figures in bits by the tags of the glossary; those per message only where something was said."""
        figures = {
            "messages_per_agent_step": counts.messages / max(counts.agent_steps, 1),
            "prefix_bits_per_agent_step": counts.prefix_bits / max(counts.agent_steps, 1),
            "prefix_bits_per_env_step": counts.prefix_bits / max(counts.env_steps, 1),
            "prefix_bits_per_episode": counts.prefix_bits / max(counts.episodes, 1),
            "received_prefix_bits_per_env_step": counts.received_bits / max(counts.env_steps, 1),
            "received_prefix_bits_per_episode": counts.received_bits / max(counts.episodes, 1),
        }
        if counts.messages:
            figures |= {
                "nominal_bits_per_message": counts.nominal_bits / counts.messages,
                "prefix_bits_per_message": counts.prefix_bits / counts.messages,
            }
            if counts.signed_symbols:
                figures["clipped_symbols"] = counts.clipped_symbols / counts.signed_symbols
            if counts.histogram:
                figures |= joint_figures(counts.histogram)
        return figures


def at_limit(alphabet: Alphabet, symbols: NDArray[np.int32]) -> tuple[int, int]:
    """Symbols of signed slots in messages [M, S], and how many of them are the largest their slot can hold."""
    signed = clipped = 0
    for slots, used in alphabet.walk(symbols):
        if slots[0].kind == "signed":
            found = np.abs(symbols[used][:, [slot.column for slot in slots]].astype(np.int64))
            signed += found.size
            clipped += int((found == [slot.size // 2 for slot in slots]).sum())
    return signed, clipped
