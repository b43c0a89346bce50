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
from marlcomm.envs.actions import BoxActions

_NEAR = 0.1
_STEP, _DAMPING, _PUSH = 0.1, 0.25, 0.5  # of MPE's world: seconds, share of the velocity lost, velocity gained
_MOVES = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
_PUSHES = torch.linspace(-1, 1, 9).unsqueeze(-1)  # along one axis, where actions are points of a box
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
    """Actions [B, 2] to a target [B, 2], or [B, 2, 5] where they are points of a box (`continuous_actions`)."""
    velocity = env.observations[:, 1, :2]
    if isinstance(env.spec.actions, BoxActions):
        # Each axis is pushed by itself; an action is nothing, then how much towards less and more of x, and of y.
        axes = zip(target.split(1, dim=1), velocity.split(1, dim=1), strict=True)
        push = torch.stack([_PUSHES[_first(_PUSHES, *axis), 0] for axis in axes], dim=1)
        ways = torch.stack([-push, push], dim=-1).clamp(min=0).flatten(1)
        moves = torch.cat([torch.zeros(len(ways), 1), ways], dim=1)
    else:
        moves = _first(_MOVES, target, velocity)
    return torch.stack([torch.zeros_like(moves), moves], dim=1)


def _first(pushes: Tensor, target: Tensor, velocity: Tensor) -> Tensor:
    """Which of the pushes [K, D] the plan begins with that stays nearest to a target [B, D], as seen from here: [B]."""
    plans = torch.tensor(list(itertools.product(range(len(pushes)), repeat=_PLANNED)))
    place = torch.zeros(len(target), len(plans), target.shape[-1])
    velocity = velocity.unsqueeze(1).expand_as(place)
    cost = torch.zeros(place.shape[:2])
    for time in range(_PLANNED + _COASTED):
        place = place + _STEP * velocity
        velocity = (1 - _DAMPING) * velocity
        if time < _PLANNED:
            velocity = velocity + _PUSH * pushes[plans[:, time]]
        cost = cost + (place - target.unsqueeze(1)).square().sum(-1)
    return plans[cost.argmin(1), 0]
