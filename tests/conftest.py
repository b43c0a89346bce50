"""One Ray for all tests of a process that need it, with more logical CPUs than the machine has."""

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# One thread each: tests share the machine with each other and with the workers that they start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray listens to this machine only
# The key by which runs of these tests are signed is not the user's own.
_STATE = tempfile.TemporaryDirectory(prefix="marlcomm-tests-")
os.environ["XDG_STATE_HOME"] = _STATE.name
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray's workers would give way to whatever another process of tests does: 3 % of a core where both cores are busy.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (Ray reads it in this case)

settings.register_profile("busy machine", deadline=None)  # speed is what benchmarks are for
settings.load_profile("busy machine")

_COSTLY = ("finished", "wheel", "points")  # fixtures of a module that are made once


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Under `pytest -n`, tests that share a costly fixture stay in one process."""
    for item in items:
        for name in _COSTLY:
            if name in item.fixturenames:
                item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(autouse=True)
def _one_thread():
    """A command that ran in this process may have left it more threads: what is learned would depend on the order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cluster():
    """Ray with six logical CPUs; workers find the tests' own modules."""
    import ray

    ray.init(address="local", num_cpus=6, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def built(tmp_path):
    """Builds the algorithms of configs, each with a folder of its own, and stops them after the test."""
    algorithms = []

    def build(config):
        config.debugging(log_sys_usage=False).logging(log_dir=tmp_path / str(len(algorithms)))
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()


@pytest.fixture
def start(built, monkeypatch):
    """Builds the algorithms of experiments without Ray: its store is for workers, and there are none."""
    from marlcomm.algorithms.build import algorithm_config

    monkeypatch.setattr("ray.put", lambda value: value)
    return lambda settings: built(algorithm_config(settings))


@pytest.fixture
def resets(monkeypatch):
    """The streams on which episodes begin from here on, each with its env."""
    from marlcomm.envs.base import TeamEnv

    seen, reset = [], TeamEnv.reset

    def spy(self, seed, worlds, episodes, stream="train"):
        seen.append((stream, self))
        return reset(self, seed, worlds, episodes, stream)

    monkeypatch.setattr(TeamEnv, "reset", spy)
    return seen


@pytest.fixture
def here(monkeypatch, capsys):
    """`marlcomm` in this process."""
    from commands import Here

    return Here(monkeypatch, capsys)


@pytest.fixture
def trains_here(here, cluster, monkeypatch):
    """`marlcomm train` in this process, on the Ray that is there."""
    import ray

    monkeypatch.setattr(ray, "init", lambda **settings: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return here


@pytest.fixture
def trainings_here(trains_here, monkeypatch):
    """`marlcomm` in this process, and with it the trainings of a study or comparison, one at a time."""
    from marlcomm.analysis import trainings

    monkeypatch.setattr(trainings, "run", lambda *arguments: trains_here(*arguments))
    monkeypatch.setattr(trainings, "ThreadPoolExecutor", _NoThreads)
    return trains_here


class _NoThreads:
    """An executor for what belongs to the main thread, as handlers of signals do."""

    def __init__(self, jobs):
        self.map = map

    def shutdown(self, cancel_futures):
        pass


@pytest.fixture
def benchmark(pytestconfig, monkeypatch):
    """Loads a script of benchmarks/ as a module."""
    folder = pytestconfig.rootpath / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
