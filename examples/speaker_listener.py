"""MPE's simple_speaker_listener with what its scores are judged by: a success, the best silence, and a ceiling.

    marlcomm train configs/speaker_listener.yaml

An episode is a success if the listener is within 0.1 of the right landmark at its end. References read what the agents
observe, [B, 2, O]: of the speaker the colour of the goal, of the listener its velocity and three landmarks as seen from
where it is.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from mpe2 import simple_speaker_listener_v4
from pettingzoo.utils import BaseParallelWrapper
from torch import Tensor

from marlcomm.envs import TeamEnv

_NEAR = 0.1
_STEP, _DAMPING, _PUSH = 0.1, 0.25, 0.5  # of MPE's world: seconds, share of the velocity lost, velocity gained
_MOVES = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
_PLANNED, _COASTED = 3, 8  # steps that are tried, and those after them in which nothing is done


class _WithSuccess(BaseParallelWrapper):
    """Infos say whether the listener is at its goal."""

    def step(self, actions: Any) -> Any:
        *seen, infos = self.env.step(actions)
        speaker = self.env.unwrapped.world.agents[0]
        distance = ((speaker.goal_a.state.p_pos - speaker.goal_b.state.p_pos) ** 2).sum() ** 0.5
        return *seen, {agent: {**info, "success": bool(distance < _NEAR)} for agent, info in infos.items()}


def parallel_env(**kwargs: Any) -> Any:
    """The environment, whose infos say ``success``."""
    return _WithSuccess(simple_speaker_listener_v4.parallel_env(**kwargs))


def silence(env: TeamEnv) -> Tensor:
    """The best for who does not know the goal: all alike are as far on average (squared) as their centre."""
    return _go(env, _landmarks(env).mean(1))


def oracle(env: TeamEnv) -> Tensor:
    """To the goal."""
    goal = env.observations[:, 0, :3].argmax(-1)
    return _go(env, _landmarks(env)[torch.arange(len(goal)), goal])


def _landmarks(env: TeamEnv) -> Tensor:
    """Where the landmarks are, as seen by the listener: [B, 3, 2]."""
    return env.observations[:, 1, 2:8].unflatten(-1, (3, 2))


def _go(env: TeamEnv, target: Tensor) -> Tensor:
    """Actions [B, 2]: the first of the moves after which the listener is nearest to its target [B, 2] for a while."""
    plans = torch.tensor(list(itertools.product(range(len(_MOVES)), repeat=_PLANNED)))
    place = torch.zeros(len(target), len(plans), 2)
    velocity = env.observations[:, 1, None, :2].expand_as(place)
    cost = torch.zeros(place.shape[:2])
    for time in range(_PLANNED + _COASTED):
        place = place + _STEP * velocity
        velocity = (1 - _DAMPING) * velocity
        if time < _PLANNED:
            velocity = velocity + _PUSH * _MOVES[plans[:, time]]
        cost = cost + (place - target.unsqueeze(1)).square().sum(-1)
    moves = plans[cost.argmin(1), 0]
    return torch.stack([torch.zeros_like(moves), moves], dim=1)
