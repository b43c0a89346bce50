"""A third-party PettingZoo environment as a batched world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import Script, TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.foreign.copies import Copy, Facts
from marlcomm.envs.foreign.functions import function
from marlcomm.envs.foreign.settings import PettingZooSettings
from marlcomm.envs.foreign.workers import Local, Workers
from marlcomm.envs.scripts import random_actions

_SEED_BITS = 31  # what every generator takes as a seed
_STREAM_BITS = 3  # of them, the highest: they tell streams apart


class PettingZooWorld(TeamEnv):
    """B copies of a third-party environment, each begun with a seed of 31 bits made of stream and world (`copy_seeds`).

    An episode is the same in any batch and process where the environment is the same after `reset(seed)`.

    Attributes:
        observations: [B, N, O], what agents see now, for scripts.
    """

    def __init__(self, settings: PettingZooSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.settings = settings
        first = Copy(settings)
        self._first: Copy | None = first
        self._facts = first.facts
        self._players: Local | Workers | None = None
        self._past_worker_seconds = 0.0
        self.worlds_at_once = settings.copies
        self.observations = torch.zeros(0)
        self._scripts = {_script_name(name): function(key, name) for key, name in _references(settings).items()}
        self.spec = _spec(settings, self._facts)

    def reset(self, seed: int, worlds: Tensor, episodes: Tensor, stream: str = "train") -> TeamStep:
        self._stream = stream
        return super().reset(seed, worlds, episodes, stream)

    def _begin(self, episodes: Tensor) -> TeamStep:
        if self.num_worlds > self.settings.copies:
            raise ValueError(
                f"pettingzoo.reset: {self.num_worlds} worlds, but env.copies is {self.settings.copies}: play them in "
                "turns, or set it higher"
            )
        players = self._started()
        seeds: list[int] = copy_seeds(self.keys, self._stream).tolist()
        self._attempt(lambda: players.reset(seeds))
        self._returns = torch.zeros(self.num_worlds, device=self.device)
        return self._now(players)

    def _advance(self, actions: Tensor) -> TeamStep:
        players = self._started()
        players.block.actions[: self.num_worlds] = actions.cpu().numpy()
        self._attempt(players.step)
        return self._now(players)

    def _started(self) -> Local | Workers:
        if self._players is None:
            if self.settings.processes:
                self._players = Workers(self.settings, self._facts)
            else:
                first, self._first = self._first, None  # a later player makes its own
                self._players = Local(self.settings, first or Copy(self.settings))
        return self._players

    def _attempt(self, play: Callable[[], None]) -> None:
        """After a failure, or Ctrl-C in the middle, nothing is known of the copies: the next episode has new ones."""
        try:
            play()
        except BaseException:
            self.close()
            raise

    def _now(self, players: Local | Workers) -> TeamStep:
        block = players.block

        def column(values: NDArray[Any]) -> Tensor:
            return torch.tensor(values[: self.num_worlds], device=self.device)  # a copy

        rewards, alive, terminated = column(block.rewards), column(block.alive), column(block.terminated)
        self._returns = self._returns + rewards.sum(-1)
        self.observations = column(block.observations)
        success, least = column(block.success), self.settings.success_return
        return TeamStep(
            observations=self.observations,
            rewards=rewards,
            alive=alive,
            spawned=column(block.spawned),
            terminated=terminated,
            truncated=column(block.truncated) | (self._at_horizon() & ~terminated),
            info={
                "success": success if least is None else (self._returns >= least).to(torch.float32),
                "survivors": alive.sum(-1).to(torch.float32),
            },
        )

    @property
    def worker_seconds(self) -> float:
        return self._past_worker_seconds + (0.0 if self._players is None else self._players.worker_seconds)

    def scripts(self) -> Mapping[str, Script]:
        return {"random": random_actions, **self._scripts}

    def render(self, world: int = 0) -> np.ndarray:
        """The environment's own picture; ``render_mode: rgb_array`` must be among env.kwargs."""
        if self.settings.kwargs.get("render_mode") != "rgb_array":
            raise NotImplementedError("pettingzoo draws a picture where env.kwargs.render_mode is rgb_array")
        return np.asarray(self._started().render(world))

    def close(self) -> None:
        self._past_worker_seconds = self.worker_seconds
        if self._players is not None:
            self._players.close()
        self._players, self.time = None, -1


def copy_seeds(keys: Tensor, stream: str) -> Tensor:
    """Seeds [B] for keys [B] of a stream: no two of `noise.STREAMS` have one in common, nor with any other stream."""
    number = noise.STREAMS.index(stream) if stream in noise.STREAMS else len(noise.STREAMS)
    bits = _SEED_BITS - _STREAM_BITS
    seeds: Tensor = (keys & (2**bits - 1)) + (number << bits)
    return seeds


def _spec(settings: PettingZooSettings, facts: Facts) -> TeamSpec:
    given = ",".join(f"{name}={value}" for name, value in settings.kwargs.items() if name != "render_mode")
    words = [settings.maker, *([given] if given else []), f"horizon{facts.horizon}"]
    return TeamSpec(
        "pettingzoo",
        num_agents=len(facts.agents),
        observation_size=facts.observation_size,
        num_actions=facts.num_actions,
        horizon=facts.horizon,
        setting="-".join([*words, *["stripped"] * facts.stripped]),
        observation_bounds=facts.observation_bounds,
        action_bounds=facts.action_bounds,
        choices=facts.choices,
        speakers=facts.speakers,
        actors=facts.actors,
        message_bits=facts.message_bits,
        floor="random" if settings.floor is None else _script_name(settings.floor),
        ceiling=None if settings.ceiling is None else _script_name(settings.ceiling),
    )


def _references(settings: PettingZooSettings) -> dict[str, str]:
    """The scripts that settings name, by key."""
    named = {"floor": settings.floor, "ceiling": settings.ceiling}
    return {key: name for key, name in named.items() if name is not None}


def _script_name(name: str) -> str:
    return name.rpartition(":")[2]
