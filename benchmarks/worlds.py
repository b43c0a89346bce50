"""Worlds alone: env steps per second of Traffic Junction on one thread, keyed noise included, best of 5."""

import torch
from common import best_of, report

from marlcomm.envs.traffic_junction.settings import TrafficJunctionSettings
from marlcomm.envs.traffic_junction.world import TrafficJunction


def measure(difficulty: str, vision: int, worlds: int) -> float:
    """Env steps per second of whole episodes in which everybody gives GAS."""
    env = TrafficJunction(TrafficJunctionSettings(difficulty=difficulty, vision=vision))
    actions = torch.zeros(worlds, env.spec.num_agents, dtype=torch.int64)
    numbers, episode = torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64)

    def play() -> None:
        env.reset(0, numbers, episode)
        for _ in range(env.spec.horizon):
            env.step(actions)

    play()
    return worlds * env.spec.horizon / best_of(5, play)


if __name__ == "__main__":
    torch.set_num_threads(1)
    report(
        "worlds",
        env_steps_per_second={
            f"{difficulty}, vision {vision}, {worlds} worlds": round(measure(difficulty, vision, worlds))
            for difficulty in ("easy", "medium", "hard")
            for vision in (0, 1)
            for worlds in (1, 256, 1024)
        },
    )
