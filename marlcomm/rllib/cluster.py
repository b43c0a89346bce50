"""Ray on this machine, for runs from the command line (ray is imported only when it is started)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from marlcomm.config import Experiment
from marlcomm.registry import ConfigError


def check_cpus(settings: Experiment) -> int:
    """The CPUs that Ray may give to workers. Raises `ConfigError` where the run's workers need more."""
    resources = settings.resources
    cpus = resources.num_cpus or os.cpu_count() or 1
    workers = resources.num_env_runners + (0 if resources.num_gpus_per_learner else resources.num_learners)
    if workers > cpus:
        raise ConfigError(
            f"resources: {resources.num_env_runners} env runners and {resources.num_learners} learners need {workers} "
            f"CPUs, here are {cpus}; resources.num_cpus={workers} lets them share"
        )
    return cpus


@contextmanager
def running_ray(settings: Experiment) -> Iterator[None]:
    """Ray on this machine, while the run lasts."""
    import ray
    import torch

    resources = settings.resources
    workers = resources.num_env_runners + resources.num_learners
    torch.set_num_threads(resources.threads or max((os.cpu_count() or 1) - workers, 1))
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    ray.init(num_cpus=check_cpus(settings), include_dashboard=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
