"""The Ray that a run from the command line uses (ray is imported only when it is started or joined)."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marlcomm.config import Experiment
from marlcomm.registry import ConfigError

# Read by Ray when it is imported: where it is 0, a Ray that is started binds to the loopback address alone. (Given that
# address, `ray.init` looks for another one.)
CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Ray would keep a record of each of the last 100,000 calls, 4 kB each, for a dashboard that is off.
OWN_RAY = {"include_dashboard": False, "_system_config": {"task_events_report_interval_ms": 0}}
_PATIENCE = 10.0  # seconds that a cluster's head may take to answer; Ray itself asks for minutes


def joined_cluster(settings: Experiment) -> tuple[str, str] | None:
    """The key and address of the cluster that the run joins; None where Ray is started on this machine."""
    if settings.cluster.address is not None:
        return "cluster.address", settings.cluster.address
    address = os.environ.get("RAY_ADDRESS")
    return ("RAY_ADDRESS", address) if address else None


def check_cpus(settings: Experiment) -> int | None:
    """The CPUs that the run's workers need; None where a cluster is joined, which knows what it has.

    Raises `ConfigError` where they need more than Ray may give them.
    """
    resources, joined = settings.resources, joined_cluster(settings)
    if joined is not None:
        if resources.num_cpus is not None:
            raise ConfigError(
                f"resources.num_cpus: got {resources.num_cpus}, wanted null: the cluster at {joined[0]} counts its own"
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
    """Ray on this machine, or the cluster that the run joins, while the run lasts."""
    resources, cpus, joined = settings.resources, check_cpus(settings), joined_cluster(settings)
    if joined is None:
        _bind(settings.cluster.loopback)
    else:
        _take_token()
    import ray
    import torch

    workers = 0 if cpus is None else resources.num_env_runners + resources.num_learners
    torch.set_num_threads(resources.threads or _own_threads(workers))
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    code = {"runtime_env": {"py_modules": shipped_code(settings.imports)}} if settings.cluster.ship_code else {}
    if joined is None:
        # Ray starts an idle Python for each CPU that it is given, so it is given no more than will be used. Without
        # "local", it would join a Ray that somebody else has started here.
        ray.init(address="local", logging_level=logging.ERROR, num_cpus=cpus, **OWN_RAY, **code)
    else:
        _join(*joined, code)
    try:
        yield
    finally:
        ray.shutdown()


def _own_threads(workers: int) -> int:
    """Threads for this process beside its workers: of the cores that it may use, and no more than OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    told = os.environ.get("OMP_NUM_THREADS", "")
    return max(min(cores - workers, int(told) if told.isdigit() else cores), 1)


def _bind(loopback: bool) -> None:
    """Have a Ray that is yet to be started bind its ports to the loopback address, or to every network's.

    Raises `ConfigError` where it is too late.
    """
    os.environ[CLUSTERS] = "0" if loopback else "1"
    constants = sys.modules.get("ray._private.ray_constants")
    if constants is not None and loopback == constants.ENABLE_RAY_CLUSTER:
        raise ConfigError(
            f"cluster.loopback: got {loopback}, but ray is imported already (by a module in imports?) and settled: set "
            f"{CLUSTERS}={os.environ[CLUSTERS]} in the environment"
        )


def _take_token() -> None:
    """Show a cluster the user's token, where there is one: `ray start` asks for it, `ray.init` has to be told to."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or file.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _join(key: str, address: str, code: dict[str, Any]) -> None:
    """Join a cluster; raises `ConfigError` where none answers, or one of other versions."""
    import ray

    _check_that_somebody_listens(key, address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, **code)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{key}: cannot join a Ray cluster at {address!r}: {error}") from None


def _check_that_somebody_listens(key: str, address: str) -> None:
    """Raise `ConfigError` at once where nobody does: Ray would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():  # auto, or a name that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"{key}: nobody answers at {address!r} ({error}); wanted the head of a Ray cluster, as `ray start --head` "
            "prints it"
        ) from None


def shipped_code(imports: Sequence[str]) -> list[str]:
    """Where the code lies that workers are sent: the marlcomm package, and modules that are not installed."""
    names = dict.fromkeys(["marlcomm", *(module.partition(".")[0] for module in imports)])
    found = {name: _place(name) for name in names}
    installed = Path(sysconfig.get_paths()["purelib"])
    return [str(place) for name, place in found.items() if name == "marlcomm" or not place.is_relative_to(installed)]


def _place(name: str) -> Path:
    """The folder of a package, or the file of a module."""
    file = Path(str(importlib.import_module(name).__file__))
    return file.parent if file.name == "__init__.py" else file
