"""The replay: the last rounds of whole episodes of a whole team, and windows drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.actions import BoxActions
from marlcomm.envs.base import TeamSpec
from marlcomm.objectives.base import Batch
from marlcomm.objectives.maddpg import WINDOWS
from marlcomm.registry import ConfigError

Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]


def episode_shapes(spec: TeamSpec, gated: bool, draws_gate: bool = False) -> Shapes:
    """What is kept of an episode: name -> shape without the axis of episodes, and type.

    Gates, and what was chosen of them, are kept where there are any; choices also where they are only drawn.
    """
    actions, steps, agents = spec.actions, spec.horizon, spec.num_agents
    kept = torch.float32 if isinstance(actions, BoxActions) else torch.int16
    shapes: Shapes = {
        "lengths": ((), torch.int64),
        "observations": ((steps + 1, agents, spec.observation_size), torch.float32),
        "alive": ((steps + 1, agents), torch.bool),
        "spawned": ((steps + 1, agents), torch.bool),
        "acts": ((steps, agents), torch.bool),
        "spoke": ((steps, agents), torch.bool),
        "actions": ((steps, agents, *actions.shape), kept),
        "rewards": ((steps, agents), torch.float32),
        "goes_on": ((steps, agents), torch.bool),
    }
    if gated:
        shapes["gates"] = (steps + 1, agents), torch.bool
    if gated or draws_gate:
        shapes["gate_choices"] = (steps, agents), torch.bool
    return shapes


def episode_bytes(shapes: Shapes) -> int:
    """The memory that an episode takes."""
    return sum(torch.Size(shape).numel() * kind.itemsize for shape, kind in shapes.values())


@dataclass(frozen=True)
class Draw:
    """How windows are cut.

    Attributes:
        rows: B, how many.
        length: L, steps that are learned from.
        burn_in: R, steps before them.
        seed: of the run.
    """

    rows: int
    length: int
    burn_in: int
    seed: int


class Replay:
    """A ring of rounds, B episodes each; the oldest round makes room for the newest.

    Attributes:
        rounds: how many it can hold.
        env_steps: how many it holds now.
    """

    def __init__(self, shapes: Shapes, episodes: int, rounds: int) -> None:
        self.shapes, self.episodes, self.rounds = shapes, episodes, rounds
        self._columns = {
            name: torch.empty((rounds * episodes, *shape), dtype=kind) for name, (shape, kind) in shapes.items()
        }
        self._first, self._next = 0, 0
        self.env_steps = 0

    @property
    def held(self) -> range:
        """The rounds that it holds."""
        return range(self._first, self._next)

    @property
    def bytes(self) -> int:
        """The memory that it takes when it is full."""
        return episode_bytes(self.shapes) * self.episodes * self.rounds

    @property
    def bytes_held(self) -> int:
        """The memory that its rounds take now."""
        return episode_bytes(self.shapes) * self.episodes * len(self.held)

    def add(self, batch: Batch, round_: int) -> None:
        """Keep the next round of episodes, columns [B, ...]; the first may be of any number."""
        if not self.held:
            self._first = self._next = round_
        if round_ != self._next:
            raise ValueError(f"the replay holds rounds up to {self._next - 1}; the next is not {round_}")
        rows = self._rows(round_)
        for name, column in self._columns.items():
            got, wanted = list(batch[name].shape), list(column[rows].shape)
            if got != wanted:
                raise ConfigError(
                    f"replay: got a round whose {name} are {got}, wanted {wanted}: it goes on with as many worlds "
                    "(run.worlds) as it began with"
                )
            column[rows] = batch[name].to(column.dtype)
        self._next += 1
        self._first = max(self._first, self._next - self.rounds)
        self.env_steps = int(self._columns["lengths"][self._valid()].sum())

    def clear(self) -> None:
        """Forget everything."""
        self._first = self._next = self.env_steps = 0

    def round(self, round_: int) -> dict[str, Any]:
        """What it holds of a round, as arrays by name: views, which later rounds overwrite."""
        return {name: column[self._rows(round_)].numpy() for name, column in self._columns.items()}

    def draw(self, how: Draw, update: int) -> Batch:
        """Windows of an update, by a key of (seed, update): each step that was played is as likely as any other.

        Episodes are cut into pieces of L steps, and pieces are drawn with repetition. Of a window [B, R + L + 1, ...]
        the steps before the episode's first are empty slots whose memory is wiped then; those after its last do not
        count.
        """
        valid = self._valid()
        pieces = (self._columns["lengths"][valid] + how.length - 1) // how.length
        ends = pieces.cumsum(0)
        drawn = noise.integers(how.rows, int(ends[-1]), how.seed, "replay", update)
        found = torch.searchsorted(ends, drawn, right=True)
        starts = (drawn - ends[found] + pieces[found]) * how.length
        return self._windows(valid[found], starts, how) | {
            "row": torch.arange(how.rows),
            "update": torch.full((how.rows,), update),
        }

    def _windows(self, episodes: Tensor, starts: Tensor, how: Draw) -> Batch:
        seen = starts.unsqueeze(1) + torch.arange(-how.burn_in, how.length + 1)
        learned = seen[:, how.burn_in : -1]
        steps = self._columns["acts"].shape[1]
        batch = {}
        for name, column in self._columns.items():
            if name != "lengths":
                times = seen.clamp(0, steps) if name in WINDOWS else learned.clamp(max=steps - 1)
                batch[name] = column[episodes.unsqueeze(1), times]
        batch["alive"] &= (seen >= 0).unsqueeze(-1)
        batch["spawned"] |= (seen == 0).unsqueeze(-1)
        batch["acts"] &= (learned < steps).unsqueeze(-1)
        if batch["actions"].dtype == torch.int16:
            batch["actions"] = batch["actions"].long()
        sums = {"agent_steps": batch["acts"].sum(), "messages": (batch["acts"] & batch["spoke"]).sum()}
        return batch | {name: value.float().expand(how.rows).contiguous() for name, value in sums.items()}

    def _rows(self, round_: int) -> slice:
        first = round_ % self.rounds * self.episodes
        return slice(first, first + self.episodes)

    def _valid(self) -> Tensor:
        """The places of all episodes that it holds, oldest first."""
        places = torch.tensor([round_ % self.rounds for round_ in self.held]).unsqueeze(1) * self.episodes
        return (places + torch.arange(self.episodes)).flatten()


def fitting_rounds(shapes: Shapes, episodes: int, steps: int, env_steps: int, limit: int) -> int:
    """How many rounds of episodes fit, of so many steps each, into env steps and bytes; raises where none does."""
    a_round = {
        "replay_env_steps": (env_steps, episodes * steps),
        "replay_bytes": (limit, episode_bytes(shapes) * episodes),
    }
    for name, (given, needed) in a_round.items():
        if given < needed:
            raise ConfigError(
                f"training.{name}: got {given:,}, wanted at least {needed:,}, what a round of {episodes} episodes takes"
            )
    return min(given // needed for given, needed in a_round.values())


def shared_windows(env_steps: int, length: int, learners: int) -> int:
    """How many windows of a length make so many env steps, whoever shares them; raises where a learner has none."""
    windows = max(env_steps // length, 1)
    if learners > windows:
        raise ConfigError(
            f"num_learners: got {learners}, wanted at most {windows}: they share the windows of an update, and "
            f"training.batch_size ({env_steps:,}) makes {windows} of {length} env steps"
        )
    return windows
