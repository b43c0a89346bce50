"""Scripts that fit every world."""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import TeamEnv


def random_actions(env: TeamEnv) -> Tensor:
    """All actions of a slot with equal chances, drawn by world, step, slot and number of the action: [B, N, ...]."""
    keys = noise.absorb(env.keys, noise.stream_number("random actions"))
    shape = (env.spec.num_agents, *env.spec.actions.shape)
    uniforms = noise.uniform(keys, 1, *shape, first=env.time)[:, 0]
    if env.spec.choices is None:
        return env.spec.actions.random(uniforms)
    return noise.choice(uniforms, torch.tensor(env.spec.choices, device=uniforms.device))
