"""Algorithms: RLlib configs that name an objective and the machinery that trains a team with it."""

from typing import TYPE_CHECKING

from marlcomm.lazy import lazy
from marlcomm.registry import register_algorithm

if TYPE_CHECKING:
    from marlcomm.algorithms.ic3net import IC3Net, IC3NetConfig
    from marlcomm.algorithms.maddpg import MADDPG, MADDPGConfig
    from marlcomm.algorithms.mappo import MAPPO, MAPPOConfig
    from marlcomm.algorithms.supervised import Supervised, SupervisedConfig

__all__ = [
    "MADDPG",
    "MAPPO",
    "IC3Net",
    "IC3NetConfig",
    "MADDPGConfig",
    "MAPPOConfig",
    "Supervised",
    "SupervisedConfig",
    "register_algorithm",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "IC3Net": "ic3net",
        "IC3NetConfig": "ic3net",
        "MADDPG": "maddpg",
        "MADDPGConfig": "maddpg",
        "MAPPO": "mappo",
        "MAPPOConfig": "mappo",
        "Supervised": "supervised",
        "SupervisedConfig": "supervised",
    },
)
