"""Faults that take too long for the tests: what they cost, and that nothing is left of them in the end.

    python benchmarks/faults.py [training] [node] [numbers]

training: a runner, a learner and the training process are killed (SIGKILL), one after the other, under one
``marlcomm train --restarts 2``; its last weights must be those of a training that nobody touched. node: a node of a
simulated Ray cluster is removed in the middle of a round. numbers: what a look at every observation and reward costs.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, report
from safetensors.numpy import load_file

WORLDS, ROUNDS, STEPS = 64, 16, 20
SMALL = [
    f"run.worlds={WORLDS}",
    f"run.env_steps={ROUNDS * WORLDS * STEPS}",
    "run.checkpoint_every=3",
    "run.evaluate_every=null",
    "policy.hidden_size=16",
    "resources.num_env_runners=2",
    "resources.num_learners=1",
    "resources.num_cpus=3",
    "resources.threads=1",
]


# --- a training that is killed ----------------------------------------------------------------------------------------


class Training:
    """A ``marlcomm train`` in a folder of its own."""

    def __init__(self, root: Path, *options: str) -> None:
        command = ["train", "configs/demo.yaml", *SMALL, "--runs", str(root), "--no-evaluate", *options]
        self._root = root
        self.process = subprocess.Popen([sys.executable, "-m", "marlcomm.cli", *command], stdout=subprocess.DEVNULL)

    def lines(self) -> list[dict[str, float]]:
        """The figures of the rounds so far."""
        files = list(self._root.glob("*/*/metrics.jsonl"))
        lines = files[0].read_text(encoding="utf-8").splitlines() if files else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def rounds(self) -> int:
        lines = self.lines()
        return int(lines[-1]["round"]) if lines else 0

    def await_round(self, round_: int) -> None:
        """Wait until a round is over."""
        while self.rounds() < round_:
            if self.process.poll() is not None:
                raise SystemExit(f"the training ended with exit code {self.process.returncode}")
            time.sleep(0.01)

    def weights(self) -> dict[str, np.ndarray]:
        """Those of the last checkpoint, when it is over."""
        if self.process.wait():
            raise SystemExit(f"the training ended with exit code {self.process.returncode}")
        return load_file(sorted(self._root.glob("*/*/checkpoints/[0-9]*"))[-1] / "weights.safetensors")


def below(parent: int) -> Iterator[tuple[int, str]]:
    """The processes that a process started, and those that they started: number and title."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            above = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended
            continue
        if above == parent:
            yield int(folder.name), title
            yield from below(int(folder.name))


def kill(training: Training, title: str) -> dict[str, float]:
    """Kill one process, and wait until the round after the last one that was over then is there."""
    before = training.rounds()
    there = {name: pid for pid, name in below(training.process.pid)}
    number = next((pid for name, pid in there.items() if title in name), None)
    if number is None:
        training.process.terminate()
        raise SystemExit(f"no process is called {title}; there are {', '.join(there)}")
    clock = time.perf_counter()
    os.kill(number, signal.SIGKILL)
    training.await_round(before + 2)  # one may have been over already and not yet be written
    lines = {int(line["round"]): line for line in training.lines()}
    return {
        "killed_in_round": before,
        "seconds_until_two_more_rounds": round(time.perf_counter() - clock, 2),
        "restarts": max(line["runners/restarts"] for line in lines.values()),
        "recovery_seconds": round(max(line["runners/recovery_seconds"] for line in lines.values()), 2),
    }


def training() -> dict[str, Any]:
    """A training that loses a process of each kind, and one that does not."""
    with tempfile.TemporaryDirectory() as folder:
        untouched = Training(Path(folder) / "untouched")
        weights = untouched.weights()
        rounds = [line["time/env_steps_per_second"] for line in untouched.lines()]
        killed = Training(Path(folder) / "killed", "--restarts", "2")
        killed.await_round(2)
        runner = kill(killed, "ray::TeamEnvRunner")
        learner = kill(killed, "ray::_WrappedExecutable")  # what Ray calls RLlib's learners
        driver = kill(killed, "marlcomm.cli train --resume")
        again = killed.weights()
        same = weights.keys() == again.keys() and all(np.array_equal(again[name], weights[name]) for name in weights)
        cause = ("restarts", "recovery_seconds")
        return {
            "seconds_of_an_untouched_round": round(WORLDS * STEPS / statistics.median(rounds), 3),
            "runner": runner,
            "learner": {name: value for name, value in learner.items() if name not in cause},
            "training_process": {name: value for name, value in driver.items() if name not in cause},
            "same_weights_as_untouched": same,
        }


# --- a node that is removed -------------------------------------------------------------------------------------------


def node() -> dict[str, Any]:
    """Three nodes of one CPU beside a head without any: two play, and one of them goes in the middle of a round."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        first = small_team(Path(folder) / "0")
        for _ in range(3):
            first.train()
        weights = first.learner_group.get_weights()
        first.stop()
        second = small_team(Path(folder) / "1")
        second.train()
        home = in_runner(second, 2, lambda runner: ray.get_runtime_context().get_node_id())
        in_runner(second, 2, slow)
        lost = next(one for one in nodes if one.node_id == home)
        threading.Timer(3.0, lambda: cluster.remove_node(lost, allow_graceful=False)).start()
        clock = time.perf_counter()
        second.train()
        seconds, figures = time.perf_counter() - clock, second.figures
        second.train()
        same = equal(weights, second.learner_group.get_weights())
        second.stop()
    ray.shutdown()
    cluster.shutdown()
    return {
        "seconds_of_the_round": round(seconds - 3.0, 2),
        "restarts": figures["runners/restarts"],
        "recovery_seconds": round(figures["runners/recovery_seconds"], 2),
        "same_weights_as_untouched": same,
    }


def small_team(folder: Path) -> Any:
    """The algorithm of the same training, with its learner in this process."""
    from marlcomm.algorithms.build import algorithm_config
    from marlcomm.config import experiment, read

    settings = [word for word in SMALL if not word.startswith(("resources.num_cpus", "resources.num_learners"))]
    data, _ = read("configs/demo.yaml", settings)
    return algorithm_config(experiment(data)).logging(log_dir=folder).build_algo()


def in_runner(algorithm: Any, runner: int, function: Callable[[Any], Any]) -> Any:
    """What a function of one runner returns."""
    import ray

    from marlcomm.rllib.compat import runner_actors

    return ray.get(runner_actors(algorithm.env_runner_group).actors()[runner].apply.remote(function))


def slow(runner: Any) -> None:
    """Let the third step of an episode take a minute."""
    step = runner.env.step

    def slowly(actions: torch.Tensor) -> Any:
        if runner.env.time == 2:
            time.sleep(60)
        return step(actions)

    runner.env.step = slowly


def equal(first: Any, second: Any) -> bool:
    """Whether weights of modules are the same, bit for bit."""
    return all(
        np.array_equal(values, second[module][name]) for module, some in first.items() for name, values in some.items()
    )


# --- looking at numbers -----------------------------------------------------------------------------------------------


def numbers() -> dict[str, Any]:
    """Microseconds that a look takes, and its share of an env step of all worlds with a policy; medians of 300."""
    from marlcomm.envs.faults import check_numbers
    from marlcomm.policies.rollout import Player
    from marlcomm.policies.team import TeamNames

    torch.set_num_threads(1)
    shares = {}
    for difficulty, worlds in (("easy", 128), ("medium", 128), ("hard", 512)):
        env_config = {"difficulty": difficulty}
        names = TeamNames("traffic_junction", env_config, "transformer", {}, "ddcl", {"delta": 0.5})
        env, which = names.make_env(), torch.arange(worlds)
        player = Player(env, names.make_policy(env, 0), 0)
        now = env.reset(0, which, which)
        looks, plays = [], []
        for _ in range(300):
            clock = time.perf_counter()
            check_numbers("traffic_junction", now, which, which, 1)
            looks.append(time.perf_counter() - clock)
        for _ in range(5):
            seconds = player.play(which, which).seconds
            plays.append(sum(seconds.values()) / env.spec.horizon)
        look, play = statistics.median(looks), min(plays)
        shares[f"{difficulty}, {worlds} worlds"] = {
            "microseconds": round(1e6 * look, 1),
            "share_of_a_step": round(look / play, 5),
        }
    return shares


if __name__ == "__main__":
    parts = {"training": training, "node": node, "numbers": numbers}
    wanted = sys.argv[1:] or list(parts)
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        raise SystemExit(f"unknown part {unknown[0]!r}; wanted some of {', '.join(parts)}")
    stored = RESULTS / "faults.json"
    before = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    known = {name: before[name] for name in parts if name in before}
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    report("faults", **known | {name: {**parts[name](), "load_per_core": round(load, 1)} for name in wanted})
