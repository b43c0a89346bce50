"""Our worlds beside those of others, each at its best, on one thread: env steps per second and their ratio.

VMAS (`pip install vmas`) and mpe2 are timed where they can be imported; the worlds published with IC3Net and the drones
world where their repositories are given: ``--ic3net FOLDER`` (github.com/IC3Net/IC3Net, with `pip install gym`) and
``--drones FOLDER`` (github.com/Bigpig4396/Multi-Agent-Reinforcement-Learning-Environment). Both sides play whole
episodes, one right after the other, and the median of the pairs' ratios is reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from common import report

from marlcomm.envs.base import TeamEnv
from marlcomm.registry import ENVS

PAIRS = 5
WORLDS = (256, 1024)
Play = Callable[[], int]  # plays some steps, returns how many env steps that was


def ours(name: str, worlds: int, **settings: Any) -> Play:
    """Whole episodes of one of our worlds, under random actions that were drawn before."""
    env: TeamEnv = ENVS.row(name).load()(ENVS.check(name, settings))
    episodes = torch.zeros(worlds, dtype=torch.int64)
    uniforms = torch.rand((env.spec.horizon, worlds, env.spec.num_agents, *env.spec.actions.shape))
    actions = [env.spec.actions.random(now) for now in uniforms]

    def play() -> int:
        env.reset(0, torch.arange(worlds), episodes)
        for now in actions:
            env.step(now)
        return worlds * env.spec.horizon

    return play


def vmas_spread(worlds: int) -> Play:
    """VMAS's simple_spread with three agents, as many steps as an episode of ours."""
    import vmas

    env = vmas.make_env("simple_spread", num_envs=worlds, device="cpu", continuous_actions=False, n_agents=3, seed=0)
    actions = torch.randint(5, (25, 3, worlds))

    def play() -> int:
        env.reset()
        for now in actions:
            env.step(list(now))
        return worlds * 25

    return play


def mpe2_spread() -> Play:
    """mpe2's simple_spread_v3, one world."""
    from mpe2 import simple_spread_v3

    env = simple_spread_v3.parallel_env(N=3, max_cycles=25)

    def play() -> int:
        env.reset(seed=0)
        for _ in range(25):
            env.step({agent: random.randrange(5) for agent in env.agents})
        return 25

    return play


def published_worlds(folder: Path) -> tuple[Any, Any]:
    """The worlds published with IC3Net, classes for predator-prey and for traffic junction."""
    sys.path.insert(0, str(folder / "ic3net-envs"))
    from ic3net_envs.predator_prey_env import PredatorPreyEnv
    from ic3net_envs.traffic_junction_env import TrafficJunctionEnv

    def _all_idx(self: Any, idx: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
        # numpy's open grid was a list when this was published; now it is a tuple, and cannot be inserted into.
        grid = [*np.ogrid[tuple(map(slice, idx.shape))]]
        grid.insert(axis, idx)
        return tuple(grid)

    return tuple(
        type(world.__name__, (world,), {"_all_idx": _all_idx}) for world in (PredatorPreyEnv, TrafficJunctionEnv)
    )


def published_prey(world: Any) -> Play:
    """Hard: one world, 10 predators on 20 x 20 cells, vision 1."""
    settings = {"dim": 20, "vision": 1, "moving_prey": False, "mode": "mixed", "enemy_comm": False}
    env = world()
    env.multi_agent_init(SimpleNamespace(**settings, nenemies=1, nfriendly=10, no_stay=False))
    return published(env, np.random.default_rng(0).integers(5, size=(80, 10)))


def published_traffic(world: Any) -> Play:
    """Medium: one world, 10 cars on 14 x 14 cells, vision 0, arrival rate 0.2."""
    settings = {"dim": 14, "vision": 0, "add_rate_min": 0.2, "add_rate_max": 0.2, "curr_start": 0, "curr_end": 0}
    env = world()
    env.multi_agent_init(SimpleNamespace(**settings, difficulty="medium", vocab_type="bool", nagents=10))
    return published(env, np.random.default_rng(0).integers(2, size=(40, 10)))


def published(env: Any, actions: np.ndarray) -> Play:
    """An episode of actions [T, N], whether the world says that it is over or not."""

    def play() -> int:
        env.reset()
        for now in actions:
            env.episode_over = False
            env.step(now)
        return len(actions)

    return play


def published_drones(folder: Path) -> Play:
    """The drones world as published: 5 drones on a map of 50 x 50 with 20 trees and 100 humans, 5 steps."""
    env = _module(folder / "env_Drones" / "env_Drones.py").EnvDrones(50, 5, 10, 20, 100)
    env.rand_reset_drone_pos()

    def play() -> int:
        for _ in range(5):
            env.step([random.randrange(4) for _ in range(100)], [random.randrange(4) for _ in range(5)])
            env.get_joint_obs()  # it looks through every drone's view on the way
        return 5

    return play


def _module(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speed(play: Play) -> float:
    """Env steps per second of one call."""
    clock = time.perf_counter()
    steps = play()
    return steps / (time.perf_counter() - clock)


def beside(own: dict[int, Play], others: dict[int, Play]) -> dict[str, float]:
    """Both at their best number of worlds: env steps per second, and the median ratio over pairs of turns."""

    def best(side: tuple[int, Play]) -> float:
        return max(speed(side[1]) for _ in range(3))

    mine, theirs = max(own.items(), key=best), max(others.items(), key=best)
    pairs = [(speed(mine[1]), speed(theirs[1])) for _ in range(PAIRS)]
    return {
        "worlds": mine[0],
        "env_steps_per_second": round(statistics.median(pair[0] for pair in pairs)),
        "their_worlds": theirs[0],
        "their_env_steps_per_second": round(statistics.median(pair[1] for pair in pairs)),
        "ratio": round(statistics.median(a / b for a, b in pairs), 1),
    }


def main() -> None:
    """Measure what can be measured here, and write results/benchmarks/peers.json."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ic3net", type=Path, help="a clone of IC3Net's repository")
    options.add_argument("--drones", type=Path, help="a clone of the repository that holds env_Drones")
    options = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spread = {worlds: ours("particle_spread", worlds) for worlds in WORLDS}
    figures = {}
    if importlib.util.find_spec("vmas"):
        figures["particle_spread / VMAS"] = beside(spread, {worlds: vmas_spread(worlds) for worlds in WORLDS})
    if importlib.util.find_spec("mpe2"):
        figures["particle_spread / mpe2"] = beside(spread, {1: mpe2_spread()})
    if options.ic3net:
        their_prey, their_traffic = published_worlds(options.ic3net)
        prey = {worlds: ours("predator_prey", worlds, difficulty="hard") for worlds in WORLDS}
        figures["predator_prey hard / IC3Net"] = beside(prey, {1: published_prey(their_prey)})
        traffic = {worlds: ours("traffic_junction", worlds, difficulty="medium") for worlds in WORLDS}
        figures["traffic_junction medium / IC3Net"] = beside(traffic, {1: published_traffic(their_traffic)})
    if options.drones:
        ghosts = {worlds: ours("ghost_run", worlds, mode="legacy") for worlds in WORLDS}
        figures["ghost_run legacy / drones"] = beside(ghosts, {1: published_drones(options.drones)})
    if not figures:
        sys.exit("peers: nothing to compare with: install vmas or mpe2, or name a folder (see --help)")
    report("peers", beside=figures)


if __name__ == "__main__":
    main()
