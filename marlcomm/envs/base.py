"""The contract of a world: B independent copies of a team's environment, stepped together in torch."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.actions import ActionSpace, BoxActions, DiscreteActions

NO_LABEL = -1  # of a slot for which no action is known to be right


@dataclass(frozen=True)
class Indexed:
    """How an observation of indices stands for a long vector that is mostly zero.

    Attributes:
        width: W of the long vector.
        ones: K; the first K numbers of an observation are the positions of ones. W, past the end, is that of none.
        columns: the positions that the other numbers take.
    """

    width: int
    ones: int
    columns: tuple[int, ...]

    def dense(self, observations: Tensor) -> Tensor:
        """The long vectors [..., W] that observations [..., K + columns] stand for."""
        long = observations.new_zeros((*observations.shape[:-1], self.width + 1))
        long[..., list(self.columns)] = observations[..., self.ones :]
        positions = observations[..., : self.ones].long()
        return long.scatter_add_(-1, positions, torch.ones_like(positions, dtype=long.dtype))[..., : self.width]


@dataclass(frozen=True)
class Candidates:
    """What an agent chooses among, where its actions are things that it sees: the last K F numbers it observes.

    Action k is the k-th of K = `TeamSpec.num_actions` candidates, in whatever order they are shown.

    Attributes:
        size: F, the numbers of one candidate.
        indexed: what they stand for where they are indices; None where they are features.
    """

    size: int
    indexed: Indexed | None = None

    @property
    def width(self) -> int:
        """W, the numbers of the vector that a candidate stands for."""
        return self.size if self.indexed is None else self.indexed.width

    def vectors(self, observed: Tensor) -> Tensor:
        """Those vectors [..., K, W], of the ends [..., K F] of observations."""
        each = observed.unflatten(-1, (-1, self.size))
        return each if self.indexed is None else self.indexed.dense(each)


@dataclass(frozen=True)
class TeamSpec:
    """What a policy and a trainer must know of a world before they see it.

    Attributes:
        name: the registry name of the world.
        num_agents: N, the number of agent slots (a slot may be empty, or be used again by a new agent).
        observation_size: O, the width of one agent's observation vector.
        num_actions: A, how many actions an agent chooses from; with `action_bounds`, how many numbers an action is.
        horizon: T, after how many steps a world is truncated.
        setting: the settings that make scores comparable, in a few words (the key of the card).
        observation_bounds: lowest and highest value that an observation can hold.
        action_bounds: lowest and highest action where actions are vectors [A]: a pair of numbers, or of tuples of A;
            None: actions are discrete.
        indexed: what an observation stands for where it holds indices; None where it is a vector of features.
        candidates: what the end of an observation holds where actions are things that are seen; `indexed` is then of
            what comes before. None: actions are the same at every step.
        keeps_memory: whether a slot's next occupant goes on with the memory that the last one left (a defect of
            published worlds, kept for comparison).
        speakers: which slots may speak; None: all. The others' messages are not on the wire.
        actors: which slots the world obeys; None: all. The others always choose action 0 (of a box: the point nearest
            to it), and nothing is learned from that.
        choices: how many of the A discrete actions each slot has, the first ones; None: all. Policies choose no others.
        message_bits: what each slot says by an action of the world's own, in bits (`env_message_bits` of the meter);
            None: nothing.
        floor, ceiling: the scripts (see `TeamEnv.scripts`) that scores lie between; None where there is none.
        card: measured references of this setting (``None`` where none is stored): policy name -> metric -> value.
    """

    name: str
    num_agents: int
    observation_size: int
    num_actions: int
    horizon: int
    setting: str
    observation_bounds: tuple[float, float] = (-math.inf, math.inf)
    action_bounds: tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]] | None = None
    indexed: Indexed | None = None
    candidates: Candidates | None = None
    keeps_memory: bool = False
    speakers: tuple[bool, ...] | None = None
    actors: tuple[bool, ...] | None = None
    choices: tuple[int, ...] | None = None
    message_bits: tuple[float, ...] | None = None
    floor: str | None = None
    ceiling: str | None = None
    card: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, slots in (("speakers", self.speakers), ("actors", self.actors)):
            if slots is not None and len(slots) != self.num_agents:
                raise ValueError(
                    f"{self.name}: {name} must say yes or no for each of {self.num_agents} slots, got {slots}"
                )
        for name, numbers in (("choices", self.choices), ("message_bits", self.message_bits)):
            if numbers is not None and len(numbers) != self.num_agents:
                raise ValueError(
                    f"{self.name}: {name} must be a number for each of {self.num_agents} slots, got {numbers}"
                )
        if self.choices is not None and not all(1 <= count <= self.num_actions for count in self.choices):
            raise ValueError(f"{self.name}: choices must be 1 to {self.num_actions} (num_actions), got {self.choices}")
        if self.choices is not None and self.action_bounds is not None:
            raise ValueError(f"{self.name}: choices are of discrete actions, and these are a box")
        if self.own_size < 0 or (self.candidates is not None and self.action_bounds is not None):
            raise ValueError(
                f"{self.name}: candidates are numbered actions, {self.num_actions} here, and observations end with "
                f"them: these are only {self.observation_size} wide, or actions are of a box"
            )
        if self.indexed is not None and self.indexed.ones + len(self.indexed.columns) != self.own_size:
            raise ValueError(
                f"{self.name}: observations of {self.indexed.ones} indices and {len(self.indexed.columns)} other "
                f"numbers cannot be {self.own_size} wide"
            )
        try:
            _ = self.actions
        except ValueError as error:
            raise ValueError(f"{self.name}: action_bounds: {error}") from None

    @property
    def own_size(self) -> int:
        """The width of what an agent observes besides candidates."""
        return self.observation_size - (0 if self.candidates is None else self.num_actions * self.candidates.size)

    @functools.cached_property
    def actions(self) -> ActionSpace:
        """What an agent may do."""
        if self.action_bounds is None:
            return DiscreteActions(self.num_actions)
        return BoxActions.of(self.num_actions, *self.action_bounds)

    def space_of(self, slot: int) -> gym.spaces.Space[Any]:
        """The action space of one slot, as Gymnasium has it."""
        return self.actions.space() if self.choices is None else gym.spaces.Discrete(self.choices[slot])

    @property
    def agent_names(self) -> list[str]:
        return [f"agent_{index}" for index in range(self.num_agents)]


@dataclass(frozen=True)
class TeamStep:
    """What a world returns at a reset and after every step.

    Attributes:
        observations: [B, N, O] float32; zero for empty slots.
        rewards: [B, N] float32, of the slot's occupant *after* the step, or of who left it empty in this step; zero at
            a reset.
        alive: [B, N] bool, who sees, speaks and acts next.
        spawned: [B, N] bool, which slots got a new occupant in this step: its memory must be wiped, and what the last
            one did ends here.
        terminated: [B] bool, the world ended for good.
        truncated: [B] bool, the horizon cut the world short.
        info: statistics of each episode so far, name -> [B] float32; ``success`` is always among them.
        labels: [B, N] int64, the discrete action that is right for each slot to do next, or `NO_LABEL`; None where the
            world is not `labelled`.
    """

    observations: Tensor
    rewards: Tensor
    alive: Tensor
    spawned: Tensor
    terminated: Tensor
    truncated: Tensor
    info: dict[str, Tensor]
    labels: Tensor | None = None


Script = Callable[["TeamEnv"], Tensor]


class TeamEnv(ABC):
    """B independent worlds of N agents on one device.

    Every draw is keyed by (seed, stream, world, episode, step, slot), so the trajectory of a world under given
    actions depends neither on B, nor on the other worlds, the process or the device. `step` never resets: a world that
    has ended stays ended and goes on being stepped with the others; what else it returns then counts for nothing.

    A subclass implements `_begin` and `_advance` and sets `spec` in its constructor.

    Attributes:
        worlds_at_once: the largest B that it can play; None: any. Players play more worlds in turns.
        labelled: whether it says at every step which actions are right, so that a team can be taught them
            (`TeamStep.labels`).
    """

    labelled: ClassVar[bool] = False
    spec: TeamSpec
    worlds_at_once: int | None = None

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.time = -1

    def reset(self, seed: int, worlds: Tensor, episodes: Tensor, stream: str = "train") -> TeamStep:
        """Start an episode of each world.

        Args:
            seed: the seed of the run.
            worlds: [B] int64, the numbers of the worlds.
            episodes: [B] int64, which episode of its world each one plays.
            stream: the random stream; training, tuning and evaluation use different names and never share draws.
        """
        if worlds.shape != episodes.shape or worlds.dim() != 1 or len(worlds) == 0:
            raise ValueError(
                f"{self.spec.name}.reset: worlds and episodes must be int64 vectors of one length, "
                f"got shapes {tuple(worlds.shape)} and {tuple(episodes.shape)}"
            )
        worlds, episodes = worlds.to(self.device, torch.int64), episodes.to(self.device, torch.int64)
        self.num_worlds = len(worlds)
        self.time = 0
        self.keys = noise.world_keys(seed, f"{stream}/{self.spec.name}", worlds, episodes)
        return self._begin(episodes)

    def step(self, actions: Tensor) -> TeamStep:
        """Advance every world by one step.

        Args:
            actions: [B, N] int64, or [B, N, A] float32 in a box; those of empty slots are ignored.
        """
        if self.time < 0 or self.time >= self.spec.horizon:
            state = "before the first reset" if self.time < 0 else f"after the horizon of {self.spec.horizon} steps"
            raise RuntimeError(f"{self.spec.name}.step was called {state}: call reset first")
        self.spec.actions.check(f"{self.spec.name}.step", actions, (self.num_worlds, self.spec.num_agents))
        self.time += 1
        return self._advance(actions)

    @abstractmethod
    def _begin(self, episodes: Tensor) -> TeamStep:
        """Reset the state of the worlds, whose keys are in `self.keys` [B]."""

    @abstractmethod
    def _advance(self, actions: Tensor) -> TeamStep:
        """Move to time `self.time` (1 after the first step)."""

    @property
    def worker_seconds(self) -> float:
        """Processor time, in core seconds, that other processes have spent on its worlds so far."""
        return 0.0

    def scripts(self) -> Mapping[str, Script]:
        """Scripted teams to compare with: name -> function from this world's true state to actions [B, N, ...]."""
        return {}

    def render(self, world: int = 0) -> np.ndarray:
        """A picture of one world: [height, width, 3] uint8."""
        raise NotImplementedError(f"{self.spec.name} draws no pictures")

    def close(self) -> None:  # noqa: B027 (most worlds have nothing to end)
        """End what a world has started outside of this object; the next reset starts it anew."""

    def _at_horizon(self) -> Tensor:
        return torch.full((self.num_worlds,), self.time >= self.spec.horizon, device=self.device)
