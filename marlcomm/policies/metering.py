"""Counting the bits of a rollout: those on the links and, beside them, those of a bottleneck at the read-out."""

from __future__ import annotations

from dataclasses import dataclass, field

from marlcomm.glossary import bottleneck_figure
from marlcomm.policies.base import Talk, TeamPolicy
from marlcomm.policies.rollout import Rollout
from marlcomm.policies.team import make_bottleneck_meter, make_meter
from marlcomm.wire.meter import BandwidthMeter, BitCounts


@dataclass(frozen=True)
class TalkCounts:
    """Counts of what was sent, and of what was read through a bottleneck (nothing where there is none)."""

    sent: BitCounts = field(default_factory=BitCounts)
    read: BitCounts = field(default_factory=BitCounts)

    def __add__(self, other: TalkCounts) -> TalkCounts:
        return TalkCounts(self.sent + other.sent, self.read + other.read)


class TalkMeter:
    """Counts all talk of a policy.

    Attributes:
        link: the meter of what is sent.
        bottleneck: the meter of what is read; None where the channel is at the sender.
    """

    def __init__(self, policy: TeamPolicy) -> None:
        self.link = make_meter(policy)
        self.bottleneck = make_bottleneck_meter(policy)

    def count(self, rollout: Rollout) -> TalkCounts:
        sent = count(self.link, rollout)
        if self.bottleneck is None:
            return TalkCounts(sent)
        return TalkCounts(sent, count(self.bottleneck, rollout, rollout.talk.readout))

    def report(self, counts: TalkCounts) -> dict[str, float]:
        """Figures in bits by the tags of the glossary."""
        figures = self.link.report(counts.sent)
        if self.bottleneck is not None:
            read = self.bottleneck.report(counts.read)
            figures |= {tag: value for name, value in read.items() if (tag := bottleneck_figure(name)) is not None}
        return figures


def count(meter: BandwidthMeter, rollout: Rollout, talk: Talk | None = None) -> BitCounts:
    """A meter's counts of a rollout: of what was sent, or of another of its talks."""
    talk = rollout.talk if talk is None else talk
    return meter.count(
        talk.symbols.cpu().numpy(),
        talk.spoke.cpu().numpy(),
        rollout.acts.cpu().numpy(),
        env_steps=rollout.env_steps,
        episodes=len(rollout.worlds),
    )
