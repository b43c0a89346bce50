"""IC3Net's trainer: REINFORCE with a value baseline, by RMSprop (Singh et al. 2019)."""

from __future__ import annotations

from typing import cast

from marlcomm.algorithms.settings import IC3NetTraining
from marlcomm.objectives.reinforce import Reinforce
from marlcomm.objectives.schedule import Schedule
from marlcomm.rllib.config import TeamConfig
from marlcomm.rllib.on_policy import OnPolicyAlgorithm


class IC3NetConfig(TeamConfig):
    """Individual returns, Monte-Carlo, no bootstrap. Settings: `marlcomm.algorithms.settings.IC3NetTraining`."""

    settings_model = IC3NetTraining

    def __init__(self) -> None:
        super().__init__(algo_class=IC3Net)
        self.policy = "ic3net"
        self.channel = "continuous"

    def objective(self) -> Reinforce:
        settings = cast(IC3NetTraining, self.algorithm_settings())
        mean_ratio = settings.mean_ratio
        if mean_ratio is None:
            mean_ratio = 1.0 if self.policy == "commnet" else 0.0
        return Reinforce(
            gamma=settings.gamma,
            mean_ratio=mean_ratio,
            value_weight=settings.vf_loss_coeff,
            entropy_weight=Schedule.of(settings.entropy_coeff),
            reward_scale=settings.reward_scale,
            normalizes_advantages=settings.normalize_rewards,
            slot_returns=settings.slot_returns,
            post_step_mask=settings.post_step_mask,
        )


class IC3Net(OnPolicyAlgorithm):
    """The algorithm that `IC3NetConfig` builds, by itself for ``tune.Tuner(IC3Net, param_space=IC3NetConfig()...)``."""

    @classmethod
    def get_default_config(cls) -> IC3NetConfig:
        return IC3NetConfig()
