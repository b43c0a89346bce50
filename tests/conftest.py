"""One Ray for all tests that need it, with more logical CPUs than the machine has."""

import os
from pathlib import Path

import pytest
import torch

# One thread each: tests share the machine with the workers that they start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def cluster():
    """Ray with six logical CPUs; workers find the tests' own modules."""
    import ray

    ray.init(num_cpus=6, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()
