"""Particle Spread as a PettingZoo environment; settings as in `ParticleSpreadSettings`."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

from marlcomm.envs import pettingzoo
from marlcomm.envs.pettingzoo import TeamParallelEnv


def parallel_env(render_mode: str | None = None, **settings: Any) -> TeamParallelEnv:
    """All agents act at once: ``parallel_env(agents=5, view="radius", render_mode="rgb_array")``."""
    return pettingzoo.parallel_env("particle_spread", render_mode, **settings)


def env(render_mode: str | None = None, **settings: Any) -> AECEnv[str, Any, Any]:
    """One agent after the other."""
    return pettingzoo.aec_env("particle_spread", render_mode, **settings)
