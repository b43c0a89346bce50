"""MADDPG: actors that follow the gradient of central critics (Lowe et al. 2017), through what they tell each other."""

from __future__ import annotations

from typing import Any, cast

from marlcomm.algorithms.settings import MADDPGTraining
from marlcomm.envs.actions import ActionSpace, BoxActions
from marlcomm.objectives import maddpg
from marlcomm.policies.distributions import Relaxation
from marlcomm.rllib.compat import RLModuleSpec
from marlcomm.rllib.config import TeamConfig
from marlcomm.rllib.learner import TeamLearner
from marlcomm.rllib.off_policy import ActorCriticModule, OffPolicyAlgorithm, OffPolicyLearner


class MADDPGConfig(TeamConfig):
    """Actors that talk, central critics and a replay. Settings: `marlcomm.algorithms.settings.MADDPGTraining`."""

    settings_model = MADDPGTraining

    def __init__(self) -> None:
        super().__init__(algo_class=MADDPG)

    def objective(self) -> maddpg.MADDPG:
        settings = cast(MADDPGTraining, self.algorithm_settings())
        return maddpg.MADDPG(
            gamma=settings.gamma,
            regularizer=settings.regularizer,
            relaxation=Relaxation(settings.actions == "hard", settings.temperature),
            target_noise=settings.target_noise,
            together=settings.others == "current",
            reward_scale=settings.reward_scale,
            mean_ratio=settings.mean_ratio,
            squashes=settings.value_rescaling,
        )

    def exploration(self, actions: ActionSpace) -> Any:
        """How much runners explore, a number or points of a schedule: by `action_noise` in a box, else by `epsilon`."""
        settings = cast(MADDPGTraining, self.algorithm_settings())
        return settings.action_noise if isinstance(actions, BoxActions) else settings.epsilon

    def get_default_learner_class(self) -> type[TeamLearner]:
        return OffPolicyLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        settings = cast(MADDPGTraining, self.algorithm_settings())
        spec = super().get_default_rl_module_spec()
        critic = {"parameters": settings.parameters, "size": settings.critic_size, "twin": settings.twin}
        config = spec.model_config | {"critic": critic}
        return RLModuleSpec(module_class=ActorCriticModule, model_config=config)


class MADDPG(OffPolicyAlgorithm):
    """The algorithm that `MADDPGConfig` builds, by itself for ``tune.Tuner(MADDPG, param_space=MADDPGConfig()...)``."""

    @classmethod
    def get_default_config(cls) -> MADDPGConfig:
        return MADDPGConfig()
