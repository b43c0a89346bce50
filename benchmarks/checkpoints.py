"""What a checkpoint every minute costs: seconds of one save as a share of 60 s, with and without a replay.

The replay is full, as after a long training, and between two saves it takes in the rounds of a minute: those are
written, the others linked. Times are of the training process alone, hashes and `fsync` included.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import report

from marlcomm import checkpoint
from marlcomm.algorithms.build import algorithm_config
from marlcomm.config import experiment, read
from marlcomm.rllib.checkpoint import save
from marlcomm.rllib.rows import join

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {"without replay": "traffic_junction_medium", "with replay": "particle_spread_maddpg"}
INTERVAL = 60.0  # seconds


def measure(data: dict, saves: int, folder: Path) -> dict:
    """Figures of an experiment's saves; data as `experiment` takes it."""
    settings = experiment(data)
    algorithm = algorithm_config(settings).logging(log_dir=folder).build_algo()
    for _ in range(2):  # the optimiser has no state before the first
        clock = time.perf_counter()
        algorithm.training_step()
        round_seconds = time.perf_counter() - clock
    replay = getattr(algorithm, "replay", None)
    rounds = max(round(INTERVAL / round_seconds), 1)
    played = None if replay is None else join([sample.batch for sample in algorithm._sample()])
    if replay is not None:
        fill(algorithm, played, replay.rounds)
    save(algorithm, folder / "000000", settings.as_data())
    seconds, written = [], []
    for number in range(1, saves + 1):
        if replay is not None:
            fill(algorithm, played, min(rounds, replay.rounds))
        clock = time.perf_counter()
        save(algorithm, folder / f"{number:06d}", settings.as_data())
        seconds.append(time.perf_counter() - clock)
        files = list((folder / f"{number:06d}").iterdir())
        written.append(sum(file.stat().st_size for file in files if file.stat().st_nlink == 1))
        shutil.rmtree(folder / f"{number - 1:06d}")
    clock = time.perf_counter()
    last = checkpoint.read(folder / f"{saves:06d}")
    for name in last.parts:
        last.read(name)
    median = statistics.median(seconds)
    figures = {
        "round_seconds": round(round_seconds, 3),
        "save_seconds": {"median": round(median, 4), "best": round(min(seconds), 4), "worst": round(max(seconds), 4)},
        "share_of_a_minute": round(median / INTERVAL, 5),
        "mebibytes_written": round(statistics.median(written) / 2**20, 2),
        "read_seconds": round(time.perf_counter() - clock, 3),
    }
    if replay is not None:
        figures |= {"replay_rounds": len(replay.held), "replay_mebibytes": round(replay.bytes / 2**20, 1)}
        figures["new_rounds"] = min(rounds, replay.rounds)
    algorithm.stop()
    return figures


def fill(algorithm, played: dict[str, torch.Tensor], rounds: int) -> None:
    """Let a replay take in a round so many times."""
    for _ in range(rounds):
        algorithm.replay.add(played, algorithm.round)
        algorithm.round += 1


def main() -> None:
    """Measure, and write results/benchmarks/checkpoints.json."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--saves", type=int, default=7)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()

    import ray

    ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
    torch.set_num_threads(given.threads)
    figures = {}
    for name, config in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            data, _ = read(ROOT / "configs" / f"{config}.yaml")
            figures[name] = {"config": f"configs/{config}.yaml", **measure(data, given.saves, Path(folder))}
    report("checkpoints", threads=given.threads, interval_seconds=INTERVAL, **figures)


if __name__ == "__main__":
    main()
