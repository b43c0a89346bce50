"""Ray on this machine, for runs from the command line (ray is imported only when it is started)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from marlcomm.config import Experiment
from marlcomm.registry import ConfigError

# Ray would keep a record of each of the last 100,000 calls, 4 kB each, for a dashboard that is off.
OWN_RAY = {"include_dashboard": False, "_system_config": {"task_events_report_interval_ms": 0}}


def check_cpus(settings: Experiment) -> int | None:
    """The CPUs that the run's workers need; None where Ray runs already (RAY_ADDRESS) and knows what it has.

    Raises `ConfigError` where they need more than Ray may give them.
    """
    resources = settings.resources
    if os.environ.get("RAY_ADDRESS"):
        if resources.num_cpus is not None:
            raise ConfigError(
                f"resources.num_cpus: got {resources.num_cpus}, wanted null: the cluster at RAY_ADDRESS counts its own"
            )
        return None
    cpus = resources.num_cpus or os.cpu_count() or 1
    workers = resources.num_env_runners + (0 if resources.num_gpus_per_learner else resources.num_learners)
    if workers > cpus:
        raise ConfigError(
            f"resources: {resources.num_env_runners} env runners and {resources.num_learners} learners need {workers} "
            f"CPUs, here are {cpus}; resources.num_cpus={workers} lets them share"
        )
    return workers


@contextmanager
def running_ray(settings: Experiment) -> Iterator[None]:
    """Ray on this machine, or the cluster at RAY_ADDRESS, while the run lasts."""
    import ray
    import torch

    resources, cpus = settings.resources, check_cpus(settings)
    workers = 0 if cpus is None else resources.num_env_runners + resources.num_learners
    torch.set_num_threads(resources.threads or max((os.cpu_count() or 1) - workers, 1))
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    # Ray starts an idle Python for each CPU that it is given, so it is given no more than will be used.
    own = {} if cpus is None else {"num_cpus": cpus, **OWN_RAY}
    ray.init(logging_level=logging.ERROR, **own)
    try:
        yield
    finally:
        ray.shutdown()
