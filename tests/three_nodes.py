"""A simulated cluster of three Ray nodes on this machine, that a run joins with code which only the driver has.

    python three_nodes.py OUT CHANGE...

writes what was played and what was learned in one round to OUT, and to OUT.json on which nodes.
"""

import json
import logging
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import ray
from learning import weights
from ray.cluster_utils import Cluster

from marlcomm.algorithms.build import algorithm_config
from marlcomm.config import experiment, merge
from marlcomm.rllib.cluster import running_ray
from marlcomm.rllib.parcels import fetch


def where(worker):
    """The node that a worker is on, and which modules it could import from what it was sent.

    (Ray puts the driver's own path first, which a worker on the same machine finds too.)
    """
    sent = [folder for folder in sys.path if "py_modules_files" in folder]
    found = [name for name in ("marlcomm", "only_here") if PathFinder.find_spec(name, sent)]
    return ray.get_runtime_context().get_node_id(), found


def one_round(algorithm):
    """What is played in the next round, `row/...`, and what is learned from it, `weight/...`."""
    rows = {}
    sample = algorithm._sample

    def kept():
        samples = sample()
        parts = fetch([one.batch for one in samples])
        rows.update({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        return samples

    algorithm._sample = kept
    algorithm.train()
    return {f"row/{name}": values for name, values in rows.items()} | {
        f"weight/{name}": value for name, value in weights(algorithm).items()
    }


def main(out, *changes):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    wanted = [f"cluster.address={cluster.address}", "cluster.ship_code=true", "imports=[only_here]"]
    data, _ = merge({}, [*changes, *wanted, "resources.num_env_runners=2", "resources.num_learners=2"])
    settings = experiment(data)
    with running_ray(settings):
        algorithm = algorithm_config(settings).logging(log_dir=Path(out).parent / "log").build_algo()
        np.savez(out, **one_round(algorithm))
        workers = algorithm.env_runner_group.foreach_env_runner(where, local_env_runner=False)
        workers += [result.get() for result in algorithm.learner_group.foreach_learner(where)]
        Path(f"{out}.json").write_text(json.dumps(workers))
        algorithm.stop()
    cluster.shutdown()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main(*sys.argv[1:])
