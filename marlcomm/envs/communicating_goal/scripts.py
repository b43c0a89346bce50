"""Scripted teams of Communicating Goal: what silence is worth, with and without a memory, and the ceiling."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from marlcomm.envs.base import TeamEnv
from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings
from marlcomm.envs.communicating_goal.walks import DOWN, LEFT, RIGHT, STAY, UP, Ints, Maps, Tours
from marlcomm.envs.communicating_goal.world import LISTENER, CommunicatingGoal
from marlcomm.envs.scripts import random_actions


def likeliest_goal(env: TeamEnv) -> Tensor:
    """Nothing is said: straight to the goal that is drawn most often, and wait there."""
    world = _checked(env)
    chances = world.settings.chances
    x, y = world.settings.goals[chances.index(max(chances))]
    return _listener(world, _towards(world, torch.full_like(world.cell, y * world.settings.size + x)))


def memoryless(env: TeamEnv) -> Tensor:
    """Nothing is said: the best map found from the listener's cell to its move (a local optimum, see `Maps`)."""
    world = _checked(env)
    return _listener(world, torch.as_tensor(_map(world.settings), device=world.device)[world.cell])


def tour(env: TeamEnv) -> Tensor:
    """Nothing is said: the best walk with a memory from the listener's start (exact, see `Tours`): the floor."""
    world = _checked(env)
    return _listener(world, torch.as_tensor(_tours(world.settings), device=world.device)[world.start, world.time])


def oracle(env: TeamEnv) -> Tensor:
    """The listener sees the goal and goes straight there: the ceiling."""
    world = _checked(env)
    return _listener(world, _towards(world, world.goal_cell))


@functools.cache
def _map(settings: CommunicatingGoalSettings) -> Ints:
    return Maps(settings).best(range(len(settings.goals)))


@functools.cache
def _tours(settings: CommunicatingGoalSettings) -> Ints:
    return Tours(settings).moves()


def _checked(env: TeamEnv) -> CommunicatingGoal:
    assert isinstance(env, CommunicatingGoal)
    return env


def _towards(world: CommunicatingGoal, target: Tensor) -> Tensor:
    """The listener's move [B] on a shortest walk to the cells [B], along x first."""
    size = world.settings.size
    x, y = target % size - world.cell % size, target // size - world.cell // size
    along_y = torch.where(y > 0, DOWN, torch.where(y < 0, UP, STAY))
    return torch.where(x > 0, RIGHT, torch.where(x < 0, LEFT, along_y))


def _listener(world: CommunicatingGoal, moves: Tensor) -> Tensor:
    """Actions [B, N] of moves [B] of the listener; the speaker stands still."""
    actions = torch.full((world.num_worlds, world.spec.num_agents), STAY, device=world.device)
    actions[:, LISTENER] = moves
    return actions


SCRIPTS = {
    "random": random_actions,
    "likeliest_goal": likeliest_goal,
    "memoryless": memoryless,
    "tour": tour,
    "oracle": oracle,
}
