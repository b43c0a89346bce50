"""The Lewis game as a PettingZoo environment; settings as in `LewisGameSettings`."""

from __future__ import annotations

from typing import Any

from pettingzoo import AECEnv

from marlcomm.envs import pettingzoo
from marlcomm.envs.pettingzoo import TeamParallelEnv


def parallel_env(render_mode: str | None = None, *, observations: str = "dense", **settings: Any) -> TeamParallelEnv:
    """Sender and receiver act at once: ``parallel_env(min_symbols=3, split="validation")``.

    Observations are dense here unless asked otherwise: other libraries' networks take indices for features.
    """
    return pettingzoo.parallel_env("lewis_game", render_mode, observations=observations, **settings)


def env(render_mode: str | None = None, *, observations: str = "dense", **settings: Any) -> AECEnv[str, Any, Any]:
    """The sender first, then the receiver."""
    return pettingzoo.aec_env("lewis_game", render_mode, observations=observations, **settings)
