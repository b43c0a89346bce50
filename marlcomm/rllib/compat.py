"""Everything that marlcomm takes from RLlib, in one place. Made for Ray 2.60; `check_version` refuses others.

RLlib calls most of these classes alpha. What is relied on beyond their signatures is written beside each use and
tested in ``tests/test_rllib.py``.
"""

from __future__ import annotations

import logging

import ray
from pyarrow.fs import LocalFileSystem
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.actor_manager import FaultTolerantActorManager
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    WEIGHTS_SEQ_NO,
)

SUPPORTED = "2.60"

__all__ = [
    "COMPONENT_LEARNER",
    "COMPONENT_RL_MODULE",
    "DEFAULT_MODULE_ID",
    "ENV_RUNNER_RESULTS",
    "EPISODE_RETURN_MEAN",
    "LEARNER_RESULTS",
    "NUM_ENV_STEPS_SAMPLED",
    "NUM_ENV_STEPS_SAMPLED_LIFETIME",
    "WEIGHTS_SEQ_NO",
    "Algorithm",
    "AlgorithmConfig",
    "Checkpointable",
    "EnvRunner",
    "EnvRunnerGroup",
    "InferenceOnlyAPI",
    "MultiAgentBatch",
    "NotProvided",
    "RLModuleSpec",
    "RLlibCallback",
    "SampleBatch",
    "TorchLearner",
    "TorchRLModule",
    "check_version",
    "ray",
    "runner_actors",
    "set_log_level",
    "trial_folder",
]


def check_version(version: str = ray.__version__) -> None:
    """Raise `ImportError` unless Ray is the release whose internals this package knows."""
    if not version.startswith(SUPPORTED + "."):
        raise ImportError(
            f"marlcomm works with ray {SUPPORTED}.*, found {version}: pip install 'ray[rllib]=={SUPPORTED}.*'"
        )


def set_log_level(level: str) -> None:
    """Ray's log level in this process; RLlib sets it in the driver only, and deprecates itself aloud in workers."""
    logging.getLogger("ray").setLevel(level)


def trial_folder(algorithm: Algorithm) -> str | None:
    """Where Tune keeps the results of this trial, if Tune runs it and keeps them on this file system.

    ``algorithm.logdir`` is a working folder under Ray's temporary one, whose files Tune does not keep by default.
    """
    storage = algorithm._storage
    if storage is None or not isinstance(storage.storage_filesystem, LocalFileSystem):
        return None
    return str(storage.trial_fs_path)


def runner_actors(group: EnvRunnerGroup) -> FaultTolerantActorManager:
    """The remote runners of a group, by their numbers from 1.

    The group's own calls leave out whoever died, and do not say who answered. A call to an actor that died, or that Ray
    is starting anew, ends at once with `RayActorError`; once it lives again its constructor has run, and nothing else.
    """
    return group._worker_manager


check_version()
