"""Worlds: batched environments of teams, and their PettingZoo faces."""

from typing import TYPE_CHECKING

from marlcomm.lazy import lazy
from marlcomm.registry import register_env

if TYPE_CHECKING:
    from marlcomm.envs.base import TeamEnv, TeamSpec, TeamStep
    from marlcomm.envs.check import check_env
    from marlcomm.envs.settings import EnvSettings

__all__ = ["EnvSettings", "TeamEnv", "TeamSpec", "TeamStep", "check_env", "register_env"]

__getattr__, __dir__ = lazy(
    __name__,
    {"EnvSettings": "settings", "TeamEnv": "base", "TeamSpec": "base", "TeamStep": "base", "check_env": "check"},
)
