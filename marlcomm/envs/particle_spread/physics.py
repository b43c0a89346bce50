"""The physics of the particle worlds (Lowe et al. 2017), in the order of mpe2: a step moves by the old velocity.

Tensors end in [2, B], coordinates and worlds: the worlds lie side by side in memory, so that every sum over agents or
coordinates is one over long rows. All functions work in the precision of what they are given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

STEP_SECONDS = 0.1
DAMPING = 0.25  # share of the velocity that a step takes away
PUSH = 5.0  # force of an action
TOUCH = 0.3  # distance of the centres at which two agents collide: each has a radius of 0.15
STIFFNESS = 100.0
SOFTNESS = 1e-3  # of the contact: how far it is felt
MOVES = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))  # stay, left, right, down, up

_NO_DISTANCE = 1e-12


def lengths(vectors: Tensor) -> Tensor:
    """Euclidean lengths [..., B] of vectors [..., 2, B]."""
    x, y = vectors.unbind(-2)
    return torch.addcmul(x * x, y, y).sqrt_()


class Pairs:
    """All P pairs of N agents, each once."""

    def __init__(self, agents: int, device: torch.device) -> None:
        self.first, self.second = torch.triu_indices(agents, agents, 1, device=device)
        each = torch.arange(len(self.first), device=device)
        self.signs = torch.zeros((agents, len(each)), device=device)  # [N, P]: 1 for the first, -1 for the second
        self.signs[self.first, each] = 1.0
        self.signs[self.second, each] = -1.0

    def apart(self, positions: Tensor) -> Tensor:
        """From the second to the first of each pair: positions [N, 2, B] -> [P, 2, B]."""
        return positions.index_select(0, self.first) - positions.index_select(0, self.second)

    def contact_forces(self, apart: Tensor, distances: Tensor) -> Tensor:
        """Forces [N, 2, B] of agents that touch, for pairs apart [P, 2, B] at distances [P, B].

        Two agents in the very same place push each other nowhere (in mpe2 they are lost: 0 / 0).
        """
        overlap = functional.softplus(TOUCH - distances, beta=1 / SOFTNESS)
        pushes = apart * (overlap * STIFFNESS / distances.clamp_min(_NO_DISTANCE)).unsqueeze(1)
        signs = self.signs.to(apart.dtype)
        return (signs @ pushes.flatten(1)).view(-1, *apart.shape[1:])

    def count(self, pairs: Tensor) -> Tensor:
        """In how many of some pairs [P, B] each agent is: [N, B]."""
        return self.signs.abs().to(pairs.dtype) @ pairs


def moved(positions: Tensor, velocities: Tensor, forces: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and velocities after a step under forces; shapes [N, 2, B], mass 1."""
    positions = torch.add(positions, velocities, alpha=STEP_SECONDS)
    return positions, torch.add(velocities * (1 - DAMPING), forces, alpha=STEP_SECONDS)
