"""Scripted predators: what silence is worth, with and without a memory, a shared map, and the ceiling."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import TeamEnv
from marlcomm.envs.predator_prey import walks
from marlcomm.envs.predator_prey.settings import Preset
from marlcomm.envs.predator_prey.walks import DOWN, LEFT, RIGHT, STAY, UP, Ints
from marlcomm.envs.predator_prey.world import PredatorPrey


def random_actions(env: TeamEnv) -> Tensor:
    """All actions with equal chances, drawn by world, step and slot."""
    keys = noise.absorb(env.keys, noise.stream_number("random actions"))
    return noise.choice(noise.uniform(keys, 1, env.spec.num_agents, first=env.time)[:, 0], env.spec.num_actions)


def circuit(env: TeamEnv) -> Tensor:
    """Nothing is said: round and round the best circuit found without a memory, until the prey is in view."""
    world = _checked(env)
    onward = torch.as_tensor(_circuit(world.grid), device=world.device)
    return _unless_in_view(world, onward[world.cells])


def sweep(env: TeamEnv) -> Tensor:
    """Nothing is said: the best walk found from each start, with a memory, until the prey is in view: the floor."""
    world = _checked(env)
    walk = torch.as_tensor(_sweep(world.grid), device=world.device)
    start, _ = world.trail[0]
    return _unless_in_view(world, walk[start, world.time + 1])


def shared_map(env: TeamEnv) -> Tensor:
    """Everybody knows all that anybody has seen: to the nearest unseen cell, and to the prey once it was seen."""
    world = _checked(env)
    seen = world.seen
    known = _in_view(world).any(1)
    if not world.settings.moving_prey:
        known = known | seen.gather(1, world.prey.unsqueeze(1)).squeeze(1)
    order = torch.as_tensor(_nearest_first(world.grid.size), device=world.device)
    nearest = order[world.cells].add_(seen.unsqueeze(1), alpha=len(order)).argmin(-1)  # all seen: where it is
    return _towards(world, torch.where(known.unsqueeze(1), world.prey.unsqueeze(1), nearest))


def oracle(env: TeamEnv) -> Tensor:
    """Everybody knows where the prey is: the ceiling."""
    world = _checked(env)
    return _towards(world, world.prey.unsqueeze(1))


@functools.cache
def _nearest_first(size: int) -> NDArray[np.float32]:
    """The rank of every cell among those nearest to a cell, of equally near ones the first: [C, C]."""
    row, column = np.divmod(np.arange(size**2), size)
    away = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    ranks: NDArray[np.float32] = away.argsort(1, kind="stable").argsort(1).astype(np.float32)
    return ranks


@functools.cache
def _circuit(grid: Preset) -> Ints:
    return walks.circuit(grid.size, grid.vision, grid.horizon)


@functools.cache
def _sweep(grid: Preset) -> Ints:
    return walks.sweep(grid.size, grid.vision, grid.horizon, grid.predators)


def _checked(env: TeamEnv) -> PredatorPrey:
    assert isinstance(env, PredatorPrey)
    return env


def _in_view(world: PredatorPrey) -> Tensor:
    """[B, N] bool, who sees the prey."""
    return (world.views[world.cells] == world.prey.view(-1, 1, 1)).any(-1)


def _unless_in_view(world: PredatorPrey, targets: Tensor) -> Tensor:
    """To targets [B, N], or to the prey where it is in view."""
    return _towards(world, torch.where(_in_view(world), world.prey.unsqueeze(1), targets))


def _towards(world: PredatorPrey, targets: Tensor) -> Tensor:
    """Moves [B, N] on shortest ways to target cells, along the column first; who is there stays."""
    size = world.grid.size
    down, right = targets // size - world.cells // size, targets % size - world.cells % size
    along_row = torch.where(right > 0, RIGHT, torch.where(right < 0, LEFT, STAY if world.settings.stay else UP))
    return torch.where(down > 0, DOWN, torch.where(down < 0, UP, along_row))


SCRIPTS = {
    "random": random_actions,
    "circuit": circuit,
    "sweep": sweep,
    "shared_map": shared_map,
    "oracle": oracle,
}
