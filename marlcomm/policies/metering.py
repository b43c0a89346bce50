"""Counting the bits of a rollout: those on the links and, beside them, those of a bottleneck at the read-out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from marlcomm.glossary import bottleneck_figure
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.records import Talk, each_talk
from marlcomm.policies.rollout import Rollout
from marlcomm.policies.team import make_bottleneck_meter, make_meter
from marlcomm.wire.meter import BandwidthMeter, BitCounts


@dataclass(frozen=True)
class TalkCounts:
    """Counts of what was sent, and of what was read through a bottleneck (nothing where there is none).

    Attributes:
        env_message_bits: what agents could have said by actions of the world's own (see `TeamSpec.message_bits`).
        open_gates: agent steps in which a gate was open.
        effective_gates: those among them in which another living agent heard.
    """

    sent: BitCounts = field(default_factory=BitCounts)
    read: BitCounts = field(default_factory=BitCounts)
    env_message_bits: float = 0.0
    open_gates: int = 0
    effective_gates: int = 0

    def __add__(self, other: TalkCounts) -> TalkCounts:
        return TalkCounts(
            self.sent + other.sent,
            self.read + other.read,
            self.env_message_bits + other.env_message_bits,
            self.open_gates + other.open_gates,
            self.effective_gates + other.effective_gates,
        )


class TalkMeter:
    """Counts all talk of a policy.

    Attributes:
        link: the meter of what is sent.
        bottleneck: the meter of what is read; None where the channel is at the sender.
    """

    def __init__(self, policy: TeamPolicy) -> None:
        self.link = make_meter(policy)
        self.bottleneck = make_bottleneck_meter(policy)
        self._policy = policy
        self._message_bits = policy.spec.message_bits

    def count(self, rollout: Rollout) -> TalkCounts:
        sent, read = count(self.link, rollout), BitCounts()
        if self.bottleneck is not None:
            read = count(self.bottleneck, rollout, rollout.talk.readout)
        return TalkCounts(sent, read, self._said_by_actions(rollout), *self._gates(rollout))

    def _gates(self, rollout: Rollout) -> tuple[int, int]:
        """Agent steps with an open gate, and those in which somebody else who acts heard."""
        if rollout.gates is None:
            return 0, 0
        talks = rollout.gates & self._policy.entitled(rollout.acts)
        hears = self._policy.audible(talks) & rollout.acts.unsqueeze(-1)
        heard = hears.any(-2) if self._policy.channel.carries else torch.zeros_like(talks)
        return int(talks.sum()), int(heard.sum())

    def _said_by_actions(self, rollout: Rollout) -> float:
        if self._message_bits is None:
            return 0.0
        steps = rollout.acts.sum((0, 1)).tolist()
        return math.fsum(bits * count for bits, count in zip(self._message_bits, steps, strict=True))

    def report(self, counts: TalkCounts) -> dict[str, float]:
        """Figures in bits by the tags of the glossary."""
        figures = self.link.report(counts.sent)
        if self.bottleneck is not None:
            read = self.bottleneck.report(counts.read)
            figures |= {tag: value for name, value in read.items() if (tag := bottleneck_figure(name)) is not None}
        if self._policy.gated:
            figures |= {
                "gate_rate": counts.open_gates / max(counts.sent.agent_steps, 1),
                "effective_gate_rate": counts.effective_gates / max(counts.sent.agent_steps, 1),
            }
        if self._message_bits is not None:
            figures |= {
                "env_message_bits_per_agent_step": counts.env_message_bits / max(counts.sent.agent_steps, 1),
                "env_message_bits_per_env_step": counts.env_message_bits / max(counts.sent.env_steps, 1),
                "env_message_bits_per_episode": counts.env_message_bits / max(counts.sent.episodes, 1),
            }
        return figures


def count(meter: BandwidthMeter, rollout: Rollout, talk: Talk | None = None) -> BitCounts:
    """A meter's counts of a rollout: of what was sent, or of another of its talks. Each round is a message."""
    talk = rollout.talk if talk is None else talk
    return meter.count(
        talk.symbols.cpu().numpy(),
        talk.spoke.cpu().numpy(),
        each_talk(rollout.acts, talk.spoke).cpu().numpy(),
        rounds=talk.spoke.shape[1] // rollout.acts.shape[1],
        env_steps=rollout.env_steps,
        episodes=len(rollout.worlds),
    )
