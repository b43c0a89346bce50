"""PettingZoo's view of a world: the same dynamics with B = 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import parallel_to_aec, wrappers

from marlcomm.envs.base import TeamEnv, TeamStep
from marlcomm.registry import ENVS, ConfigError, nearest


class TeamParallelEnv(ParallelEnv[str, np.ndarray, Any]):
    """One world of a `TeamEnv` as a PettingZoo environment.

    All N slots are agents from the first to the last step: a slot may be empty (its observation is zero, its action
    is ignored and its ``info["alive"]`` is False), and may be used again (``info["spawned"]``). Statistics of the
    episode so far, ``success`` among them, stand in every agent's info.

    `reset` with a seed starts episode 0 of that seed, without one the next episode.
    """

    def __init__(self, world: TeamEnv, render_mode: str | None = None) -> None:
        modes = ["rgb_array"]
        if render_mode is not None and render_mode not in modes:
            raise ConfigError(f"render_mode: unknown mode {render_mode!r}; {nearest(render_mode, modes)}")
        self.world = world
        self.render_mode = render_mode
        self.metadata = {
            "name": f"{world.spec.name}_v0",
            "render_modes": modes,
            "render_fps": 4,
            "is_parallelizable": True,
        }
        self.possible_agents = world.spec.agent_names
        self.agents: list[str] = []
        observation = gym.spaces.Box(*world.spec.observation_bounds, (world.spec.observation_size,), np.float32)
        self.observation_spaces = dict.fromkeys(self.possible_agents, observation)
        self.action_spaces: dict[str, gym.spaces.Space[Any]] = {
            name: world.spec.space_of(slot) for slot, name in enumerate(self.possible_agents)
        }
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._episode = -1

    def observation_space(self, agent: str) -> gym.spaces.Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.spaces.Space[Any]:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._seed, self._episode = seed, -1
        self._episode += 1
        self.agents = list(self.possible_agents)
        now = self.world.reset(self._seed, torch.tensor([0]), torch.tensor([self._episode]), stream="pettingzoo")
        return self._observations(now), self._infos(now)

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        missing = [name for name in self.agents if name not in actions]
        if missing:
            raise ValueError(f"step: no action for {', '.join(missing)}; every agent acts, empty slots too")
        names = self.possible_agents
        now = self.world.step(self.world.spec.actions.gather({name: actions[name] for name in names}).unsqueeze(0))
        rewards = dict(zip(names, now.rewards[0].tolist(), strict=True))
        terminated = {name: bool(now.terminated[0]) for name in names}
        truncated = {name: bool(now.truncated[0]) for name in names}
        if now.terminated[0] or now.truncated[0]:
            self.agents = []
        return self._observations(now), rewards, terminated, truncated, self._infos(now)

    def _observations(self, now: TeamStep) -> dict[str, np.ndarray]:
        rows = now.observations[0].cpu().numpy()
        return {name: rows[slot].copy() for slot, name in enumerate(self.possible_agents)}

    def _infos(self, now: TeamStep) -> dict[str, dict[str, Any]]:
        statistics = {name: float(value[0]) for name, value in now.info.items()}
        return {
            name: {"alive": bool(now.alive[0, slot]), "spawned": bool(now.spawned[0, slot]), **statistics}
            for slot, name in enumerate(self.possible_agents)
        }

    def render(self) -> np.ndarray | None:
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; pass render_mode='rgb_array'")
            return None
        return self.world.render(0)

    def state(self) -> np.ndarray:
        raise NotImplementedError(f"{self.world.spec.name} has no global state vector")


def parallel_env(name: str, render_mode: str | None = None, **settings: Any) -> TeamParallelEnv:
    """The PettingZoo environment of a registered world."""
    return TeamParallelEnv(ENVS.row(name).load()(ENVS.check(name, settings)), render_mode)


def aec_env(name: str, render_mode: str | None = None, **settings: Any) -> AECEnv[str, Any, Any]:
    """The same, one agent after the other."""
    return wrappers.OrderEnforcingWrapper(parallel_to_aec(parallel_env(name, render_mode, **settings)))
