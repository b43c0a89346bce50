"""From an experiment as data to RLlib's config."""

from __future__ import annotations

from typing import cast

from marlcomm.config import Experiment
from marlcomm.registry import ALGORITHMS
from marlcomm.rllib.config import TeamConfig


def algorithm_config(settings: Experiment) -> TeamConfig:
    """The RLlib config of an experiment; the same one that its Python API would give."""
    run, resources = settings.run, settings.resources
    config = cast(TeamConfig, ALGORITHMS.row(settings.algorithm.name).load()())
    built = (
        config.environment(settings.env.name, env_config=settings.env.settings.model_dump())
        .communication(
            policy=settings.policy.name,
            policy_config=settings.policy.settings.model_dump(),
            channel=settings.channel.name,
            channel_config=settings.channel.settings.model_dump(),
            imports=settings.imports,
            init_from=settings.init_from,
        )
        .training(**settings.algorithm.settings.model_dump())
        .env_runners(
            num_env_runners=resources.num_env_runners,
            num_envs_per_env_runner=run.worlds // max(resources.num_env_runners, 1),
            sampling=run.sampling,
            sample_timeout_s=resources.sample_timeout,
        )
        .learners(num_learners=resources.num_learners, num_gpus_per_learner=resources.num_gpus_per_learner)
        .evaluation(evaluation_interval=run.evaluate_every, evaluation_duration=run.evaluation_worlds)
        .debugging(seed=settings.seed, log_level="ERROR")
    )
    return cast(TeamConfig, built)
