"""Scripted teams of Particle Spread: what is possible, and what silence is worth in each view."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from marlcomm.envs.base import TeamEnv
from marlcomm.envs.particle_spread.physics import DAMPING, MOVES, PUSH, STEP_SECONDS, TOUCH
from marlcomm.envs.particle_spread.views import others_of
from marlcomm.envs.particle_spread.world import ParticleSpread
from marlcomm.envs.scripts import random_actions

# Where pushes can go at full force; the first are those of discrete actions.
_DIAGONALS = ((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0))
_PLANNED = 2  # steps whose pushes are tried in all combinations
_FORESEEN = 4  # steps over which a plan is judged; after the planned ones it coasts
_TOUCH_COST = 0.2  # of a touch, in units of distance
_ROOM = TOUCH + 0.04  # between places that two agents are to keep
_WIDE = TOUCH + 0.1  # the same where agents come together blindly
_UNSEEN = 1e3  # what it costs to go where one cannot see: more than any way


def stay(env: TeamEnv) -> Tensor:
    """Nobody pushes."""
    nowhere = torch.zeros((env.num_worlds, env.spec.num_agents), dtype=torch.int64, device=env.device)
    return _actions(_checked(env), nowhere)


def formation(env: TeamEnv) -> Tensor:
    """In silence, and looking at nothing but oneself: everybody to its own place close to the middle."""
    world = _checked(env)
    return steer(world, _places(world))


def own_view(env: TeamEnv) -> Tensor:
    """In silence: everybody shares out the landmarks in its view among the agents in its view, and goes to its own.

    Whoever gets none goes to its place of the formation. Nobody sees velocities: others are taken to be at rest.
    """
    world = _checked(env)
    agents, landmarks = in_view(world)
    count, everybody = env.spec.num_agents, torch.arange(env.spec.num_agents, device=env.device)
    everywhere, wanted = (places.repeat_interleave(count, dim=0) for places in (world.positions, world.landmarks))
    goals, found = share_out(everywhere, wanted, agents.flatten(0, 1), landmarks.flatten(0, 1))
    own = everybody.repeat(env.num_worlds)
    each = torch.arange(len(own), device=env.device)
    goals, found = goals[each, own].view_as(world.positions), found[each, own].view(-1, count, 1)
    return steer(world, torch.where(found, goals, _places(world)), (agents, torch.zeros_like(goals)))


def oracle(env: TeamEnv) -> Tensor:
    """Everybody sees everything: landmarks are shared out for the least sum of distances, the ceiling.

    Where landmarks are so close that agents would touch, they stand to either side. The controller tries out two
    pushes at a time, so better teams are possible, but not by much.
    """
    world = _checked(env)
    everything = torch.ones((env.num_worlds, env.spec.num_agents), dtype=torch.bool, device=env.device)
    if world.settings.view == "other_landmark":
        goals = _apart(world.landmarks, everything)
    else:
        goals, _ = share_out(world.positions, world.landmarks, everything, everything)
    return steer(world, goals, (everything.unsqueeze(1).expand(-1, env.spec.num_agents, -1), world.velocities))


def in_view(world: ParticleSpread) -> tuple[Tensor, Tensor]:
    """[B, N, N] bool each: which agents an agent sees, itself among them, and which landmarks."""
    settings, count = world.settings, world.spec.num_agents
    own = torch.eye(count, dtype=torch.bool, device=world.device).expand(world.num_worlds, -1, -1)
    to_agents, to_landmarks = _distances(world.positions, world.positions), _distances(world.positions, world.landmarks)
    if settings.view == "full":
        return torch.ones_like(own), torch.ones_like(own)
    if settings.view == "other_landmark":
        return own, own.roll(1, dims=-1)
    if settings.view == "radius":
        return to_agents <= settings.radius, to_landmarks <= settings.radius
    everybody = None if settings.nearest_agents is None else settings.nearest_agents + 1  # oneself first
    return _least(to_agents.masked_fill(own, -1.0), everybody), _least(to_landmarks, settings.nearest_landmarks)


def _least(values: Tensor, count: int | None) -> Tensor:
    """[B, N, M] bool: the `count` least values of each row; None: all."""
    most = values.shape[-1]
    chosen = values.topk(most if count is None else min(count, most), dim=-1, largest=False).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, chosen, True)


def share_out(positions: Tensor, landmarks: Tensor, agents: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Landmarks for agents with the least sum of distances, among those who are in view.

    Of W views: positions and landmarks [W, N, 2], and which agents [W, N] bool and landmarks, seen [W, N] bool, are in
    it. Returns goals [W, N, 2], and [W, N] bool, whose goal is a landmark in view.
    """
    goals = _apart(landmarks, seen)
    pairs = agents.unsqueeze(2) & seen.unsqueeze(1)
    costs = torch.where(pairs, _distances(positions, goals), _UNSEEN).cpu().numpy()
    chosen = torch.as_tensor(np.stack([linear_sum_assignment(cost)[1] for cost in costs]), device=positions.device)
    found = pairs.gather(2, chosen.unsqueeze(2)).squeeze(2)
    return goals.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2)), found


def _apart(places: Tensor, counted: Tensor) -> Tensor:
    """Places [W, N, 2], moved apart where two that count [W, N] are too close for two agents."""
    slots = places.shape[1]
    pairs = counted.unsqueeze(1) & counted.unsqueeze(2) & ~torch.eye(slots, dtype=torch.bool, device=places.device)
    for _ in range(10):
        away = places.unsqueeze(2) - places.unsqueeze(1)
        gaps = _lengths(away).clamp_min(1e-6)
        lacking = (_ROOM - gaps).clamp_min(0.0) * pairs / 2
        places = places + (away * (lacking / gaps).unsqueeze(-1)).sum(2)
    return places


def steer(world: ParticleSpread, goals: Tensor, others: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Actions [B, N, ...] of agents that plan a few steps ahead: close to their goals [B, N, 2], touching few.

    `others` says which agents each one avoids [B, N, N] bool, and with which velocities [B, N, 2] they are expected to
    coast; None: nobody is avoided.
    """
    first, pushed, drift = _plans(_directions(world), world.device)
    at = world.positions.unsqueeze(2)
    own = (at + world.velocities.unsqueeze(2) * drift).unsqueeze(2) + pushed  # [B, N, plans, steps, 2]
    costs = _lengths(own - goals[:, :, None, None]).sum(-1)
    if others is not None:
        seen, velocities = others
        costs = costs + _TOUCH_COST * _touches(own, seen, (at + velocities.unsqueeze(2) * drift))
    return _actions(world, first[costs.argmin(-1)])


def _directions(world: ParticleSpread) -> tuple[tuple[float, float], ...]:
    return MOVES if world.spec.action_bounds is None else MOVES + _DIAGONALS


def _actions(world: ParticleSpread, chosen: Tensor) -> Tensor:
    """Actions [B, N, ...] that push in the chosen [B, N] of the world's directions."""
    if world.spec.action_bounds is None:
        return chosen
    x, y = torch.tensor(_directions(world), device=chosen.device).unbind(-1)
    shares = torch.stack([torch.zeros_like(x), -x, x, -y, y], dim=-1).clamp_(0.0, 1.0)
    return shares[chosen]


def _touches(own: Tensor, seen: Tensor, theirs: Tensor) -> Tensor:
    """How many touches [B, N, plans] ways [B, N, plans, steps, 2] lead to, with ways [B, N, steps, 2] of those seen."""
    touches = torch.zeros(own.shape[:3], device=own.device)
    for others in others_of(own.shape[1], own.device).t():
        meets = _lengths(own - theirs[:, others].unsqueeze(2)) < TOUCH
        known = seen.gather(2, others.view(1, -1, 1).expand(len(seen), -1, 1))
        touches += (meets & known.unsqueeze(-1)).sum(-1)
    return touches


@functools.cache
def _plans(directions: tuple[tuple[float, float], ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First directions [plans], where each plan's pushes lead [plans, steps, 2], how far speed 1 coasts [steps, 1]."""
    plans = torch.tensor(list(itertools.product(range(len(directions)), repeat=_PLANNED)))
    pushes = torch.zeros(len(plans), _FORESEEN, 2)
    pushes[:, :_PLANNED] = PUSH * torch.tensor(directions)[plans]
    at, speed, ways = torch.zeros(len(plans), 2), torch.zeros(len(plans), 2), []
    for step in range(_FORESEEN):
        at, speed = at + STEP_SECONDS * speed, (1 - DAMPING) * speed + STEP_SECONDS * pushes[:, step]
        ways.append(at)
    coasted = STEP_SECONDS * ((1 - DAMPING) ** torch.arange(_FORESEEN)).cumsum(0)
    return plans[:, 0].to(device), torch.stack(ways, dim=1).to(device), coasted.unsqueeze(1).to(device)


def _places(world: ParticleSpread) -> Tensor:
    """[B, N, 2] the places of the formation."""
    places = torch.tensor(_lattice(world.spec.num_agents), device=world.device, dtype=world.positions.dtype)
    return places.expand_as(world.positions)


@functools.cache
def _lattice(count: int) -> list[tuple[float, float]]:
    """Places around the middle that are `_WIDE` apart: the closest of a triangular lattice, about the best of three.

    A lattice may have a place, the middle of two or that of three in the middle of the square.
    """
    shear, rise = _WIDE / 2, _WIDE * math.sqrt(3) / 2
    every = np.array([(_WIDE * i + shear * j, rise * j) for i in range(-6, 7) for j in range(-4, 5)])
    best: np.ndarray | None = None
    for middle in ((0.0, 0.0), (shear, 0.0), (shear, rise / 3)):
        away = every - middle
        chosen = away[np.argsort((away**2).sum(1), kind="stable")[:count]]
        chosen = chosen - chosen.mean(0)
        if best is None or (chosen**2).sum() < (best**2).sum() - 1e-9:
            best = chosen
    assert best is not None
    return [(float(x), float(y)) for x, y in best]


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """[W, N, M] between places [W, N, 2] and [W, M, 2]."""
    return _lengths(first.unsqueeze(2) - second.unsqueeze(1))


def _lengths(vectors: Tensor) -> Tensor:
    """[...] of vectors [..., 2]: ten times as fast as a norm over so short an axis."""
    return (vectors[..., 0].square() + vectors[..., 1].square()).sqrt_()


def _checked(env: TeamEnv) -> ParticleSpread:
    assert isinstance(env, ParticleSpread)
    return env


SCRIPTS = {
    "random": random_actions,
    "stay": stay,
    "formation": formation,
    "own_view": own_view,
    "oracle": oracle,
}
