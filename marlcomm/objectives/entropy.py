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
    """A step of dual ascent after each round (Haarnoja et al. 2018): ``weight *= exp(rate * (target - share))``.

    The share says where the entropy is between the lowest and the highest one that acting agents could have: of
    discrete actions it is the entropy over its maximum. So the rate means the same in every world.

    Attributes:
        share: the wanted one, by env steps.
        rate: how fast the logarithm of the weight moves.
        first: the first weight.
    """

    share: Schedule
    rate: float
    first: float

    def next_weight(self, weight: float, share: float, env_steps: int) -> float:
        """The weight after a round in which the entropy was at a share."""
        moved = weight * math.exp(self.rate * (self.share.at(env_steps) - share))
        return min(max(moved, _LEAST), _MOST)
