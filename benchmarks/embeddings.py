"""The first layer over observed indices: its ones added up, or a product with long vectors, side by side on one thread.

Of 2,000 observations of random play. A layer takes the product where it holds more than a one in 16 numbers.
"""

import time
from typing import Any

import torch
from common import median_ratio, report
from torch import Tensor

from marlcomm.policies import indexed
from marlcomm.registry import ENVS

WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "ghost_run": ("ghost_run", {}),
    "ghost_run, legacy": ("ghost_run", {"mode": "legacy"}),
    "lewis_game": ("lewis_game", {}),
    "predator_prey easy": ("predator_prey", {"difficulty": "easy"}),
    "predator_prey hard": ("predator_prey", {"difficulty": "hard"}),
}
HIDDEN, OBSERVATIONS, REPEATS = 128, 2000, 30


def seconds(sums: Any, positions: Tensor, table: Tensor) -> float:
    """Of a pass forward and back."""
    clock = time.perf_counter()
    sums(positions, table).sum().backward()
    return time.perf_counter() - clock


def one_by_one(positions: Tensor, table: Tensor) -> Tensor:
    """What a layer of few ones computes."""
    return indexed.sums_of_few(positions, positions < len(table) - 1, table)


def product(positions: Tensor, table: Tensor) -> Tensor:
    """What a layer of many ones computes."""
    return indexed.sums_of_many(positions.long(), table)


def measure(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Width of the long vector for each one in it, and how many times as fast as ones by themselves the product is."""
    env = ENVS.row(name).load()(ENVS.check(name, settings))
    known, worlds = env.spec.indexed, torch.arange(OBSERVATIONS)
    now = env.reset(0, worlds, torch.zeros_like(worlds))
    if env.spec.horizon > 1:
        now = env.step(env.scripts()["random"](env))
    positions = now.observations[:, 0, : known.ones]
    table = torch.randn(known.width + 1, HIDDEN, requires_grad=True)
    pairs = [(seconds(one_by_one, positions, table), seconds(product, positions, table)) for _ in range(REPEATS)]
    times = median_ratio(*(list(column) for column in zip(*pairs, strict=True)))
    ones = (positions < known.width).sum().item()
    return {"numbers for each one": round(known.width * OBSERVATIONS / ones, 1), "times as fast": round(times, 2)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    report("embeddings", worlds={label: measure(*world) for label, world in WORLDS.items()})
