"""Sampling alone: remote one-thread runners beside one local one-thread runner, round by round, and what travels.

Both play the same worlds of Traffic Junction medium with IC3Net's policy; their rounds alternate, so a drifting machine
cancels out of the ratio. A remote round is over when its rows lie, packed, where learners read them.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"  # workers inherit it

import torch
from common import median_ratio, report

from marlcomm.algorithms import IC3NetConfig
from marlcomm.rllib.cluster import CLUSTERS
from marlcomm.rllib.parcels import fetch


def sampler(worlds, runners, channel):
    """An algorithm that plays so many worlds a round."""
    config = (
        IC3NetConfig()
        .environment("traffic_junction", env_config={"difficulty": "medium"})
        .communication(policy="ic3net", policy_config={"force_gate_open": True}, channel=channel)
        .env_runners(num_env_runners=runners, num_envs_per_env_runner=worlds // max(runners, 1))
        .logging(log_dir=tempfile.mkdtemp())
    )
    return config.build_algo()


def timed(algorithm):
    """Samples of a round, and the seconds that they took."""
    clock = time.perf_counter()
    samples = algorithm._sample()
    return samples, time.perf_counter() - clock


def moved(samples):
    """Bytes of a round's rows as they travel, and as they are learned from."""
    parts = [sample.batch for sample in samples]
    return sum(part.bytes for part in parts), sum(
        column.nbytes for columns in fetch(parts) for column in columns.values()
    )


def main() -> None:
    """Measure, and write results/benchmarks/sampling.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--worlds", type=int, default=256)
    options.add_argument("--runners", type=int, default=2)
    options.add_argument("--channel", default="ddcl")
    options = options.parse_args()

    os.environ[CLUSTERS] = "0"
    import ray

    ray.init(num_cpus=options.runners, include_dashboard=False, logging_level="ERROR")
    torch.set_num_threads(1)
    local, remote = (sampler(options.worlds, runners, options.channel) for runners in (0, options.runners))
    timed(local)
    samples, _ = timed(remote)
    env_steps = sum(sample.env_steps for sample in samples)
    packed, unpacked = moved(samples)
    seconds: dict[str, list[float]] = {"local": [], "remote": []}
    for _ in range(options.rounds):
        for name, algorithm in (("local", local), ("remote", remote)):
            seconds[name].append(timed(algorithm)[1])
    report(
        "sampling",
        recipe=f"traffic_junction medium, ic3net, {options.channel}",
        worlds=options.worlds,
        runners=options.runners,
        rounds=options.rounds,
        load_before=[round(load, 1) for load in LOAD],
        env_steps_per_second={name: round(env_steps / statistics.median(times)) for name, times in seconds.items()},
        times_as_fast=round(median_ratio(seconds["local"], seconds["remote"]), 3),
        bytes_per_env_step={"packed": round(packed / env_steps, 1), "unpacked": round(unpacked / env_steps, 1)},
    )
    for algorithm in (local, remote):
        algorithm.stop()


LOAD = os.getloadavg()  # a number that was taken beside others' work is told from one that was not

if __name__ == "__main__":
    main()
