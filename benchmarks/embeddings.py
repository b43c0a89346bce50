"""The first layer over observed indices: torch's gradient and a product with long vectors, side by side on one thread.

Of 2,000 observations of random play.
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


def seconds(sums: Any, indices: Tensor, table: Tensor) -> float:
    """Of a pass forward and back."""
    clock = time.perf_counter()
    sums(indices, table).sum().backward()
    return time.perf_counter() - clock


def measure(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Width of the long vector for each one in it, and how many times as fast the product is."""
    env = ENVS.row(name).load()(ENVS.check(name, settings))
    known, worlds = env.spec.indexed, torch.arange(OBSERVATIONS)
    now = env.reset(0, worlds, torch.zeros_like(worlds))
    if env.spec.horizon > 1:
        now = env.step(env.scripts()["random"](env))
    indices = now.observations[:, 0, : known.ones].long()
    table = torch.randn(known.width + 1, HIDDEN, requires_grad=True)
    pairs = [
        (seconds(indexed.torch_sums, indices, table), seconds(indexed.sums_of_many, indices, table))
        for _ in range(REPEATS)
    ]
    times = median_ratio(*(list(column) for column in zip(*pairs, strict=True)))
    layer = indexed.IndexedLinear(known, 0, HIDDEN)
    return {
        "numbers for each one": round(known.width / known.ones, 1),
        "times as fast": round(times, 2),
        "used": layer.sums is indexed.sums_of_many,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    report("embeddings", worlds={label: measure(*world) for label, world in WORLDS.items()})
