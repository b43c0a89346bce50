"""Worlds alone: env steps per second on one thread, keyed noise included, best of 5."""

from typing import Any

import torch
from common import best_of, report

from marlcomm.registry import ENVS

WORLDS = (1, 256, 1024)
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{difficulty}, vision {vision}": ("traffic_junction", {"difficulty": difficulty, "vision": vision})
        for difficulty in ("easy", "medium", "hard")
        for vision in (0, 1)
    },
    **{
        f"predator_prey {difficulty}": ("predator_prey", {"difficulty": difficulty})
        for difficulty in ("easy", "medium", "hard")
    },
    **{
        f"particle_spread {view}, {agents} agents": ("particle_spread", {"view": view, "agents": agents})
        for view in ("full", "nearest", "radius", "other_landmark")
        for agents in (3, 10)
    },
    **{
        f"ghost_run {mode}{', dense' * (observations == 'dense')}": (
            "ghost_run",
            {"mode": mode, "observations": observations},
        )
        for mode in ("crossed", "legacy")
        for observations in ("indices", "dense")
    },
    **{f"lewis_game, {steps} steps": ("lewis_game", {"steps": steps}) for steps in (1, 5)},
    "predator_prey hard, dense": ("predator_prey", {"difficulty": "hard", "observations": "dense"}),
}


def measure(name: str, settings: dict[str, Any], worlds: int) -> float:
    """Env steps per second of whole episodes in which everybody chooses the last action but one: GAS, down, left."""
    env = ENVS.row(name).load()(ENVS.check(name, settings))
    actions = torch.full((worlds, env.spec.num_agents), env.spec.num_actions - 2)
    numbers, episode = torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64)

    def play() -> None:
        env.reset(0, numbers, episode)
        for _ in range(env.spec.horizon):
            env.step(actions)

    play()
    return worlds * float(env.spec.horizon) / best_of(5, play)


if __name__ == "__main__":
    torch.set_num_threads(1)
    report(
        "worlds",
        env_steps_per_second={
            f"{label}, {worlds} worlds": round(measure(*world, worlds))
            for label, world in SETTINGS.items()
            for worlds in WORLDS
        },
    )
