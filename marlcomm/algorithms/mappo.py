"""MAPPO: proximal policy optimisation with parameters shared by all agents (Yu et al. 2022).

The critic is local for now: it values what an agent itself knows and heard.
"""

from __future__ import annotations

from typing import cast

from marlcomm.algorithms.settings import MAPPOTraining
from marlcomm.objectives.ppo import PPO
from marlcomm.objectives.schedule import Schedule
from marlcomm.rllib.config import TeamConfig
from marlcomm.rllib.on_policy import OnPolicyAlgorithm


class MAPPOConfig(TeamConfig):
    """Clipped policy optimisation for each agent, by Adam. Settings: `marlcomm.algorithms.settings.MAPPOTraining`."""

    settings_model = MAPPOTraining

    def __init__(self) -> None:
        super().__init__(algo_class=MAPPO)

    def objective(self) -> PPO:
        settings = cast(MAPPOTraining, self.algorithm_settings())
        return PPO(
            gamma=settings.gamma,
            lam=settings.lambda_,
            clip=settings.clip_param,
            value_weight=settings.vf_loss_coeff,
            entropy_weight=Schedule.of(settings.entropy_coeff),
            reward_scale=settings.reward_scale,
            mean_ratio=settings.mean_ratio,
        )


class MAPPO(OnPolicyAlgorithm):
    """The algorithm that `MAPPOConfig` builds, by itself for ``tune.Tuner(MAPPO, param_space=MAPPOConfig()...)``."""

    @classmethod
    def get_default_config(cls) -> MAPPOConfig:
        return MAPPOConfig()
