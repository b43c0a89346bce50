"""Traffic Junction as a PettingZoo environment; settings as in `TrafficJunctionSettings`."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

from marlcomm.envs import pettingzoo
from marlcomm.envs.pettingzoo import TeamParallelEnv


def parallel_env(render_mode: str | None = None, **settings: Any) -> TeamParallelEnv:
    """All cars act at once: ``parallel_env(difficulty="medium", vision=1, render_mode="rgb_array")``."""
    return pettingzoo.parallel_env("traffic_junction", render_mode, **settings)


def env(render_mode: str | None = None, **settings: Any) -> AECEnv[str, Any, Any]:
    """One car after the other."""
    return pettingzoo.aec_env("traffic_junction", render_mode, **settings)
