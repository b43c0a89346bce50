"""Scripted drivers of Traffic Junction: the floor, the ceiling and what lies between."""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm.envs.base import TeamEnv
from marlcomm.envs.scripts import random_actions
from marlcomm.envs.traffic_junction import timetables
from marlcomm.envs.traffic_junction.world import BRAKE, GAS, TrafficJunction


def always_gas(env: TeamEnv) -> Tensor:
    """Everybody drives on: the best that drivers can do who neither see, hear nor know the time."""
    return torch.full((env.num_worlds, env.spec.num_agents), GAS, device=env.device)


def always_brake(env: TeamEnv) -> Tensor:
    """Everybody stands still."""
    return torch.full((env.num_worlds, env.spec.num_agents), BRAKE, device=env.device)


def timetable(env: TeamEnv) -> Tensor:
    """Nothing is seen or said, but everybody knows the time: the best timetable that a search found.

    It drives on until most slots are probably taken, and then parks: nobody else can come in.
    """
    assert isinstance(env, TrafficJunction)
    table = timetables.stored(env.settings.difficulty).to(env.device)
    return timetables.actions(env, table, timetables.Time.clock)


def scheduler(env: TeamEnv) -> Tensor:
    """A central scheduler that sees everything but the future: the ceiling.

    Everybody drives, except who would end up in one cell with a car that brakes, or with a driving car that has waited
    longer (ties: the lower slot). Braking cars may make cars behind them brake, so the rule is applied until nothing
    changes. Only arrivals onto an occupied entry can then crash.
    """
    assert isinstance(env, TrafficJunction)
    alive, here, ahead = env.positions()
    slots = torch.arange(env.spec.num_agents, device=env.device)
    rank = env.waited * (env.spec.num_agents + 1) - slots  # longest wait first, then the lower slot
    yields = rank.unsqueeze(1) > rank.unsqueeze(2)  # [B, i, j]: i yields to j
    pairs = alive.unsqueeze(1) & alive.unsqueeze(2) & (slots != slots.unsqueeze(1))
    brakes = torch.zeros_like(alive)
    while True:
        ends = torch.where(brakes, here, ahead)
        meets = pairs & (ends.unsqueeze(1) == ends.unsqueeze(2)) & (ends.unsqueeze(2) >= 0)
        must = (meets & (yields | brakes.unsqueeze(1))).any(2) & alive
        if not (must & ~brakes).any():
            return torch.where(brakes, BRAKE, GAS)
        brakes = brakes | must


SCRIPTS = {
    "always_gas": always_gas,
    "always_brake": always_brake,
    "random": random_actions,
    "timetable": timetable,
    "scheduler": scheduler,
}
