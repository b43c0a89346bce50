"""Copies of an environment, stepped one after the other; what goes in and comes out lies in the rows of a block."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from marlcomm.envs.foreign.functions import function
from marlcomm.envs.foreign.settings import PettingZooSettings
from marlcomm.envs.foreign.spaces import Bounds, Sight, TeamSpaces, deeds_of, need_supersuit
from marlcomm.envs.foreign.words import find_words
from marlcomm.registry import ConfigError, nearest


class CopyError(RuntimeError):
    """A copy of an environment failed; the message says which one, when, and holds the traceback.

    Attributes:
        copy: its number; None where it may be one of several.
    """

    def __init__(self, message: str, copy: int | None = None) -> None:
        super().__init__(message)
        self.copy = copy


@dataclass(frozen=True)
class Facts:
    """What is known of an environment before it is played (see `TeamSpec`)."""

    agents: tuple[str, ...]
    horizon: int
    observation_size: int
    observation_bounds: tuple[float, float]
    num_actions: int
    action_bounds: Bounds | None
    choices: tuple[int, ...] | None
    actors: tuple[bool, ...] | None
    speakers: tuple[bool, ...] | None
    message_bits: tuple[float, ...] | None
    stripped: bool


@dataclass(frozen=True)
class Block:
    """What passes between a world and C copies.

    Attributes:
        actions: [C, N] int64 or [C, N, A] float32.
        observations: [C, N, O] float32.
        rewards: [C, N] float32.
        alive, spawned: [C, N] bool.
        terminated, truncated: [C] bool; a copy that has ended stays so.
        success: [C] float32, what infos have said last.
    """

    actions: NDArray[Any]
    observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    alive: NDArray[np.bool_]
    spawned: NDArray[np.bool_]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.float32]

    @staticmethod
    def layout(facts: Facts, copies: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each array."""
        slots = (copies, len(facts.agents))
        number, truth = np.dtype(np.float32), np.dtype(np.bool_)
        actions = (slots, np.dtype(np.int64))
        if facts.action_bounds is not None:
            actions = ((*slots, facts.num_actions), number)  # type: ignore[assignment]
        return {
            "actions": actions,
            "observations": ((*slots, facts.observation_size), number),
            "rewards": (slots, number),
            "alive": (slots, truth),
            "spawned": (slots, truth),
            "terminated": ((copies,), truth),
            "truncated": ((copies,), truth),
            "success": ((copies,), number),
        }

    @staticmethod
    def size(facts: Facts, copies: int) -> int:
        """Bytes of a block."""
        return sum(_aligned(shape, dtype) for shape, dtype in Block.layout(facts, copies).values())

    @staticmethod
    def over(facts: Facts, copies: int, memory: mmap.mmap | bytearray) -> Block:
        """The block that lies in some memory."""
        arrays, start = {}, 0
        for name, (shape, dtype) in Block.layout(facts, copies).items():
            arrays[name] = np.ndarray(shape, dtype, memory, start)
            start += _aligned(shape, dtype)
        return Block(**arrays)

    def every(self, first: int, step: int) -> Block:
        """The rows first, first + step, ... of the same memory."""
        return Block(**{field.name: getattr(self, field.name)[first::step] for field in fields(self)})

    def row(self, index: int) -> Block:
        """One row of the same memory, without the axis C."""
        return Block(**{field.name: getattr(self, field.name)[index, ...] for field in fields(self)})


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return -(-int(np.prod(shape)) * dtype.itemsize // 8) * 8


def make(settings: PettingZooSettings) -> Any:
    """One environment, as a PettingZoo `ParallelEnv`; raises `ConfigError` where the maker makes none."""
    from pettingzoo import AECEnv, ParallelEnv
    from pettingzoo.utils.conversions import aec_to_parallel

    maker = function("maker", settings.maker)
    try:
        env = maker(**settings.kwargs)
    except Exception as error:  # a third party's function may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in settings.kwargs.items())
        raise ConfigError(
            f"env.maker: {settings.maker}({given}) raised {type(error).__name__}: {error} (env.kwargs is what it is "
            "called with)"
        ) from error
    if isinstance(env, AECEnv):
        if not env.metadata.get("is_parallelizable", False):
            raise ConfigError(
                f"env.maker: in {env} agents take turns (metadata say no is_parallelizable), wanted one in which all "
                "act at once"
            )
        env = aec_to_parallel(env)
    if not isinstance(env, ParallelEnv):
        single = ", which is of one agent" if isinstance(env, gym.Env) else ""
        raise ConfigError(
            f"env.maker: {settings.maker} makes {type(env).__name__}{single}, wanted PettingZoo's ParallelEnv or AECEnv"
        )
    return env


class Copy:
    """One copy of an environment.

    All agents that the environment may ever have own a slot, in the order of `possible_agents`. SuperSuit's
    `black_death_v3` is not used for those that left: it does not tell the dead from the living, does not say whether an
    agent was terminated or cut off, and misses the end where all are cut off and none is terminated, as in MPE.
    """

    def __init__(self, settings: PettingZooSettings) -> None:
        need_supersuit()
        self.env = make(settings)
        self._names: list[str] = list(getattr(self.env, "possible_agents", None) or [])
        if not self._names:
            raise ConfigError(f"env.maker: {settings.maker} names no possible_agents: a team's slots must be known")
        words = find_words(self.env, self._names, settings)
        stripped = settings.strip_comm
        self._spaces = TeamSpaces(
            [
                Sight(name, self.env.observation_space(name), words.heard.get(name, []) if stripped else [])
                for name in self._names
            ],
            [deeds_of(name, self.env.action_space(name), words.said.get(name), stripped) for name in self._names],
        )
        self.facts = self._facts(settings, words.said)
        self._seed = self._time = -1

    def _facts(self, settings: PettingZooSettings, said: dict[str, int]) -> Facts:
        deeds, seen = self._spaces.deeds, self._spaces.observations
        own, acts = tuple(one.own for one in deeds), tuple(one.acts for one in deeds)
        bits = tuple(one.message_bits for one in deeds)
        bounds = self._spaces.action_bounds
        return Facts(
            agents=tuple(self._names),
            horizon=self._horizon(settings),
            observation_size=len(seen.low),
            observation_bounds=(min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 0.0)),
            num_actions=self._spaces.num_actions,
            action_bounds=bounds,
            choices=own if bounds is None and len(set(own)) > 1 else None,
            actors=None if all(acts) else acts,
            speakers=self._speakers(settings, said),
            message_bits=bits if any(bits) else None,
            stripped=settings.strip_comm and bool(said),
        )

    def _horizon(self, settings: PettingZooSettings) -> int:
        told = settings.kwargs.get("max_cycles", getattr(self.env.unwrapped, "max_cycles", None))
        if settings.horizon is not None:
            return settings.horizon
        if not isinstance(told, int):
            raise ConfigError(
                f"env.horizon: {settings.maker} does not say how long an episode is (max_cycles): a number is required"
            )
        return told

    def _speakers(self, settings: PettingZooSettings, said: dict[str, int]) -> tuple[bool, ...] | None:
        named = settings.speakers
        if named is None and settings.strip_comm and said:
            named = tuple(said)
        if named is None:
            return None
        for name in named:
            if name not in self._names:
                raise ConfigError(f"env.speakers: unknown agent {name!r}; {nearest(name, self._names)}")
        speaks = tuple(name in named for name in self._names)
        return None if all(speaks) else speaks

    def reset(self, seed: int, row: Block) -> None:
        """Begin an episode; `row` is this copy's row of a block."""
        self._seed, self._time = seed, 0
        observations, infos = self.env.reset(seed=seed)
        for array in (row.rewards, row.spawned, row.terminated, row.truncated, row.success):
            array[...] = 0
        self._show(row, self._living({}, {}), observations, infos)

    def step(self, row: Block) -> None:
        """Play one step; after the end nothing happens any more."""
        self._time += 1
        row.spawned[...] = False
        row.rewards[...] = 0
        if row.terminated or row.truncated:
            self._show(row, [], {}, {})
            return
        before = [name for name, lives in zip(self._names, row.alive, strict=True) if lives]
        slots = {name: slot for slot, name in enumerate(self._names)}
        actions = {name: self._spaces.deeds[slots[name]].action(row.actions[slots[name]]) for name in before}
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        for name in before:
            row.rewards[slots[name]] = rewards.get(name, 0.0)
        living = self._living(terminations, truncations)
        row.spawned[...] = [name in living and name not in before for name in self._names]
        if not living:
            # Who was only cut off would have gone on: values are taken from what it sees last.
            living = [name for name in before if truncations.get(name) and not terminations.get(name)]
            row.truncated[...] = bool(living)
            row.terminated[...] = not living
        self._show(row, living, observations, infos)

    def _living(self, terminations: dict[str, bool], truncations: dict[str, bool]) -> list[str]:
        """The agents that act next."""
        strangers = [name for name in self.env.agents if name not in self._names]
        if strangers:
            raise ValueError(
                f"{strangers[0]!r} appears and is none of possible_agents ({', '.join(self._names)}): a team's slots "
                "must be known from the beginning"
            )
        ended = {name for ends in (terminations, truncations) for name, over in ends.items() if over}
        return [name for name in self._names if name in self.env.agents and name not in ended]

    def _show(self, row: Block, living: list[str], observations: dict[str, Any], infos: dict[str, Any]) -> None:
        row.observations[...] = 0
        row.alive[...] = [name in living for name in self._names]
        for slot, name in enumerate(self._names):
            if name in living:
                if name not in observations:
                    raise ValueError(f"{name} lives and is given no observation")
                row.observations[slot] = self._spaces.observe(slot, observations[name])
        told = [info[key] for info in infos.values() for key in ("success", "is_success") if key in info]
        if told:
            row.success[...] = float(max(told))

    def __str__(self) -> str:
        when = f"in its step {self._time}" if self._time else "at its reset"
        return f"begun with seed {self._seed}, failed {when}"


class Copies:
    """The copies of some rows of a block, made when they are first needed.

    They are closed with the process only: closing one of Knights Archers Zombies would quit pygame for all.
    """

    def __init__(
        self, settings: PettingZooSettings, block: Block, numbers: Sequence[int], first: Copy | None = None
    ) -> None:
        self._settings, self._numbers = settings, numbers
        self._rows = [block.row(index) for index in range(len(numbers))]
        self._copies = [] if first is None else [first]
        self._playing = 0

    def reset(self, seeds: Sequence[int]) -> None:
        """Begin an episode of as many copies as there are seeds."""
        while len(self._copies) < len(seeds):
            self._copies.append(Copy(self._settings))
        self._playing = len(seeds)
        for index, seed in enumerate(seeds):
            with self._told_which(index):
                self._copies[index].reset(seed, self._rows[index])

    def step(self) -> None:
        """Play one step of all that play."""
        for index in range(self._playing):
            with self._told_which(index):
                self._copies[index].step(self._rows[index])

    def render(self, index: int) -> Any:
        """The picture that a copy draws of itself."""
        with self._told_which(index):
            return self._copies[index].env.render()

    @contextmanager
    def _told_which(self, index: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a third party's environment may raise anything
            raise CopyError(
                f"copy {self._numbers[index]} of {self._settings.maker}, {self._copies[index]}: "
                f"{type(error).__name__}: {error}",
                self._numbers[index],
            ) from error
