"""Supervised learning of what is right, through the channel, as referential games are trained (EGG, SMS paper)."""

from __future__ import annotations

from marlcomm.algorithms.settings import SupervisedTraining
from marlcomm.objectives.supervised import CrossEntropy
from marlcomm.policies.settings import PolicySettings
from marlcomm.registry import ENVS, POLICIES, ConfigError
from marlcomm.rllib.config import TeamConfig
from marlcomm.rllib.on_policy import OnPolicyAlgorithm


class SupervisedConfig(TeamConfig):
    """Cross-entropy with the labels of a world. Settings: `marlcomm.algorithms.settings.SupervisedTraining`."""

    settings_model = SupervisedTraining

    def __init__(self) -> None:
        super().__init__(algo_class=Supervised)

    def validate(self) -> None:
        super().validate()
        if not ENVS.row(self.team_names().env).load().labelled:
            labelled = [row.name for row in ENVS.rows.values() if row.load().labelled]
            raise ConfigError(
                f"env.name: got {self.env!r}, wanted a world that says which action is right, for algorithm "
                f"supervised to teach it: {', '.join(labelled)}"
            )
        policy = POLICIES.check(self.policy, self.policy_config)
        if isinstance(policy, PolicySettings) and policy.gated:
            raise ConfigError(
                "policy.force_gate_open: got False, wanted True: under algorithm supervised no label says when to speak"
            )

    def objective(self) -> CrossEntropy:
        return CrossEntropy()


class Supervised(OnPolicyAlgorithm):
    """What `SupervisedConfig` builds, by itself for ``tune.Tuner(Supervised, param_space=SupervisedConfig()...)``."""

    @classmethod
    def get_default_config(cls) -> SupervisedConfig:
        return SupervisedConfig()
