"""GhostRun as a PettingZoo environment; settings as in `GhostRunSettings`."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

from marlcomm.envs import pettingzoo
from marlcomm.envs.pettingzoo import TeamParallelEnv


def parallel_env(render_mode: str | None = None, *, observations: str = "dense", **settings: Any) -> TeamParallelEnv:
    """All drones move at once: ``parallel_env(mode="legacy", render_mode="rgb_array")``.

    Observations are dense here unless asked otherwise: other libraries' networks take indices for features.
    """
    return pettingzoo.parallel_env("ghost_run", render_mode, observations=observations, **settings)


def env(render_mode: str | None = None, *, observations: str = "dense", **settings: Any) -> AECEnv[str, Any, Any]:
    """One drone after the other."""
    return pettingzoo.aec_env("ghost_run", render_mode, observations=observations, **settings)
