"""MAPPO: proximal policy optimisation with parameters shared by all agents, and a central critic (Yu et al. 2022)."""

from __future__ import annotations

from typing import cast

from marlcomm.algorithms.settings import MAPPOTraining
from marlcomm.objectives.entropy import EntropyTarget
from marlcomm.objectives.ppo import PPO, ValueLoss
from marlcomm.objectives.schedule import Schedule
from marlcomm.policies.values import ValueSettings
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
            value_loss=ValueLoss(
                huber_delta=settings.huber_delta if settings.value_loss == "huber" else None, clip=settings.value_clip
            ),
        )

    def value_settings(self) -> ValueSettings:
        settings = cast(MAPPOTraining, self.algorithm_settings())
        return ValueSettings(
            critic=settings.critic,
            size=settings.critic_size,
            normalization=settings.value_normalization,
            decay=settings.value_norm_decay,
            rewards=settings.critic_rewards,
        )

    def entropy_target(self) -> EntropyTarget | None:
        settings = cast(MAPPOTraining, self.algorithm_settings())
        if settings.target_entropy is None:
            return None
        return EntropyTarget(
            share=Schedule.of(settings.target_entropy),
            rate=settings.target_entropy_rate,
            gain=settings.target_entropy_gain,
            first=Schedule.of(settings.entropy_coeff).at(0),
        )


class MAPPO(OnPolicyAlgorithm):
    """The algorithm that `MAPPOConfig` builds, by itself for ``tune.Tuner(MAPPO, param_space=MAPPOConfig()...)``."""

    @classmethod
    def get_default_config(cls) -> MAPPOConfig:
        return MAPPOConfig()
