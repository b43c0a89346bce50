"""Driving by timetable: what drivers can do who neither see nor hear anybody, found by search.

A timetable says for every entry, cells driven and time whether cars brake. Time is that of the episode, or each car's
own, the steps since it came in. ``python -m marlcomm.envs.traffic_junction.timetables --difficulty easy`` searches; the
best ones by the clock are stored beside this file. (By a car's own time, to drive on is the best that was found.)
"""

from __future__ import annotations

import functools
import json
import math
from enum import StrEnum
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import typer
from torch import Tensor

from marlcomm.envs.traffic_junction.settings import TrafficJunctionSettings
from marlcomm.envs.traffic_junction.world import TrafficJunction

_FILE = "timetables.json"


class Time(StrEnum):
    """Which time a timetable goes by."""

    clock = "clock"  # the same for everybody: needs a clock, or a memory that began with the episode
    own = "own"  # since the car came in, which everybody with a memory knows


def play(env: TrafficJunction, table: Tensor, time: Time, seed: int, worlds: int) -> float:
    """Success of a timetable [E, L, T] over episodes that training and evaluation never see."""
    env.reset(seed, torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64), "timetable search")
    for _ in range(env.spec.horizon):
        step = env.step(actions(env, table, time))
    return float(step.info["success"].mean())


def actions(env: TrafficJunction, table: Tensor, time: Time) -> Tensor:
    """What the timetable [E, L, T] lets every car do now, [B, N]: 0 GAS, 1 BRAKE."""
    entry, driven = env.driven
    now = env.waited.long() if time == Time.own else env.time
    return table[entry, driven, now].to(torch.int64)


@functools.cache
def stored(difficulty: str) -> Tensor:
    """The timetable [E, L, T] by the clock that was found for a difficulty."""
    file = resources.files("marlcomm.envs.traffic_junction") / _FILE
    found = json.loads(file.read_text(encoding="utf-8"))[difficulty]
    return torch.tensor([[[step == "1" for step in row] for row in entry] for entry in found])


def search(env: TrafficJunction, time: Time, tries: int, worlds: int, seed: int) -> Tensor:
    """Simulated annealing over timetables, on the same episodes throughout, from "everybody drives on".

    A move lets the cars of one entry or of all brake, or drive, on a stretch of road during a stretch of time, at
    every step of it or at every second, third or fourth.
    """
    draws = np.random.default_rng(seed)
    lengths = [max(len(env.roads.routes[route]) for route in routes) for routes in env.roads.entries]
    shape = len(lengths), max(lengths), env.spec.horizon
    table = best_table = torch.zeros(shape, dtype=torch.bool)
    now = best = play(env, table, time, seed, worlds)
    for trial in range(tries):
        changed = _move(table, draws)
        score = play(env, changed, time, seed, worlds)
        heat = 0.008 * (1 - trial / tries) + 1e-4
        if score >= now or draws.random() < math.exp((score - now) / heat):
            table, now = changed, score
            if score > best:
                best_table, best = changed, score
    return best_table


def _move(table: Tensor, draws: np.random.Generator) -> Tensor:
    entries, length, horizon = table.shape
    entry = slice(None) if draws.random() < 0.5 else slice(chosen := int(draws.integers(entries)), chosen + 1)
    near = int(draws.integers(length))
    far = near + int(draws.choice([1, 1, 2, 3, length]))
    first = int(draws.integers(horizon))
    last = first + int(draws.choice([1, 2, 3, horizon]))
    every = int(draws.choice([1, 1, 1, 2, 3, 4]))
    changed = table.clone()
    changed[entry, (near if draws.random() < 0.5 else 0) : far, first:last:every] = bool(draws.random() < 0.5)
    return changed


def main(
    difficulty: str = "easy", time: Time = Time.clock, tries: int = 4000, worlds: int = 512, restarts: int = 3
) -> None:
    """Search a timetable for a difficulty at its final arrival rate; of those by the clock, store the best one."""
    torch.set_num_threads(1)
    env = TrafficJunction(TrafficJunctionSettings.model_validate({"difficulty": difficulty}))
    found = [search(env, time, tries, worlds, seed) for seed in range(restarts)]
    none = torch.zeros_like(found[0])  # a search can learn its episodes by heart
    best = max([none, *found], key=lambda table: play(env, table, time, restarts, 4 * worlds))
    if time == Time.clock:
        file = Path(str(resources.files("marlcomm.envs.traffic_junction") / _FILE))
        tables = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        tables[difficulty] = [["".join(str(int(step)) for step in row) for row in entry] for entry in best]
        file.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    scores = [play(env, table, time, restarts + 1, 4000) for table in (best, none)]
    typer.echo("{}, {} time: success {:.3f}, without a timetable {:.3f}".format(difficulty, time, *scores))


if __name__ == "__main__":
    typer.run(main)
