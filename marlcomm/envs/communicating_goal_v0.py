"""Communicating Goal as a PettingZoo environment; settings as in `CommunicatingGoalSettings`."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

from marlcomm.envs import pettingzoo
from marlcomm.envs.pettingzoo import TeamParallelEnv


def parallel_env(render_mode: str | None = None, **settings: Any) -> TeamParallelEnv:
    """Speaker and listener act at once: ``parallel_env(horizon=50, render_mode="rgb_array")``."""
    return pettingzoo.parallel_env("communicating_goal", render_mode, **settings)


def env(render_mode: str | None = None, **settings: Any) -> AECEnv[str, Any, Any]:
    """The speaker first, then the listener."""
    return pettingzoo.aec_env("communicating_goal", render_mode, **settings)
