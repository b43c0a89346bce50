"""Predator-Prey as a PettingZoo environment; settings as in `PredatorPreySettings`."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

from marlcomm.envs import pettingzoo
from marlcomm.envs.pettingzoo import TeamParallelEnv


def parallel_env(render_mode: str | None = None, *, observations: str = "dense", **settings: Any) -> TeamParallelEnv:
    """All predators act at once: ``parallel_env(difficulty="medium", render_mode="rgb_array")``.

    Observations are dense here unless asked otherwise: other libraries' networks take indices for features.
    """
    return pettingzoo.parallel_env("predator_prey", render_mode, observations=observations, **settings)


def env(render_mode: str | None = None, *, observations: str = "dense", **settings: Any) -> AECEnv[str, Any, Any]:
    """One predator after the other."""
    return pettingzoo.aec_env("predator_prey", render_mode, observations=observations, **settings)
