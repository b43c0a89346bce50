"""Weights of the entropy bonus that follow a wanted entropy, as temperatures do in soft actor-critic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from marlcomm.objectives.schedule import Schedule

# Logged by an objective where its weight follows: means over acting agents of what their entropies could be, in nats.
LOWEST_ENTROPY, HIGHEST_ENTROPY = "policy/lowest_entropy", "policy/highest_entropy"
_LEAST, _MOST = 1e-6, 100.0  # a weight that ran away while a policy could not follow would take as long to come back


@dataclass(frozen=True)
class EntropyTarget:
    """Dual ascent on the constraint that entropy has (Haarnoja et al. 2018), with a proportional term that damps it.

    After each round, with e the wanted share less the present one, ``multiplier *= exp(rate * e)``, and the weight of
    the next round is ``multiplier * exp(gain * e)``. The share says where the entropy is between the lowest and the
    highest one that acting agents could have: of discrete actions it is the entropy over its maximum. So rate and gain
    mean the same in every world. Without the gain the multiplier is late and swings: it grows while a policy that is
    sure of itself has hardly a gradient left, and then blows away all that was learned (Stooke et al. 2020 say why).

    Attributes:
        share: the wanted one, by env steps.
        rate: how fast the logarithm of the multiplier moves.
        gain: how much the present error counts beside it.
        first: the first weight.
    """

    share: Schedule
    rate: float
    gain: float
    first: float

    def start(self) -> EntropyWeight:
        """The weight of the first round."""
        return EntropyWeight(self.first, self.first)

    def follow(self, weight: EntropyWeight, share: float, env_steps: int) -> EntropyWeight:
        """The weight after a round in which the entropy was at a share."""
        missing = self.share.at(env_steps) - share
        multiplier = _bounded(weight.multiplier * math.exp(self.rate * missing))
        return EntropyWeight(multiplier, _bounded(multiplier * math.exp(self.gain * missing)))


@dataclass(frozen=True)
class EntropyWeight:
    """What a round's entropy bonus weighs.

    Attributes:
        multiplier: the dual variable.
        present: the weight.
    """

    multiplier: float
    present: float


def _bounded(weight: float) -> float:
    return min(max(weight, _LEAST), _MOST)
