"""Worlds alone: env steps per second on one thread, keyed noise included, best of 5."""

from collections.abc import Callable

import torch
from common import best_of, report

from marlcomm.envs.base import TeamEnv
from marlcomm.envs.particle_spread.settings import ParticleSpreadSettings
from marlcomm.envs.particle_spread.world import ParticleSpread
from marlcomm.envs.traffic_junction.settings import TrafficJunctionSettings
from marlcomm.envs.traffic_junction.world import TrafficJunction


def measure(env: TeamEnv, worlds: int) -> float:
    """Env steps per second of whole episodes in which everybody chooses the last action but one: GAS, or down."""
    actions = torch.full((worlds, env.spec.num_agents), env.spec.num_actions - 2)
    numbers, episode = torch.arange(worlds), torch.zeros(worlds, dtype=torch.int64)

    def play() -> None:
        env.reset(0, numbers, episode)
        for _ in range(env.spec.horizon):
            env.step(actions)

    play()
    return worlds * env.spec.horizon / best_of(5, play)


def junction(difficulty: str, vision: int) -> TeamEnv:
    """Traffic Junction."""
    return TrafficJunction(TrafficJunctionSettings(difficulty=difficulty, vision=vision))


def spread(view: str, agents: int) -> TeamEnv:
    """Particle Spread."""
    return ParticleSpread(ParticleSpreadSettings(view=view, agents=agents))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows: dict[str, Callable[[], TeamEnv]] = {
        f"{difficulty}, vision {vision}": lambda difficulty=difficulty, vision=vision: junction(difficulty, vision)
        for difficulty in ("easy", "medium", "hard")
        for vision in (0, 1)
    } | {
        f"particle_spread {view}, {agents} agents": lambda view=view, agents=agents: spread(view, agents)
        for view in ("full", "nearest", "radius", "other_landmark")
        for agents in (3, 10)
    }
    report(
        "worlds",
        env_steps_per_second={
            f"{name}, {worlds} worlds": round(measure(make(), worlds))
            for name, make in rows.items()
            for worlds in (1, 256, 1024)
        },
    )
