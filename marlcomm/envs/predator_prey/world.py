"""Predator-Prey: predators that see only the cells around them gather on a prey (Singh et al. 2019, with IC3Net).

Rules, rewards and the dense observation as published. The published code announces a prey that moves, and raises where
it is asked for; here it moves. Its test of who stands on the prey is right for one prey only: there is one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import Indexed, Script, TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.cards import card
from marlcomm.envs.predator_prey.settings import PredatorPreySettings
from marlcomm.envs.predator_prey.walks import MOVES, destinations, views

STEP_REWARD = -0.05
PREY_REWARD = 0.05


class PredatorPrey(TeamEnv):
    """B batched grids with N predators and one prey, all in cells of their own at first.

    Actions: 0 row - 1, 1 column + 1, 2 row + 1, 3 column - 1, 4 stay; who would leave the grid stays. Predators may
    share cells. One that stands on the prey stays there for good. Rewards: -0.05 for each predator off the prey; those
    on it get 0 (mixed), 0.05 times their number (cooperative) or 0.05 divided by it (competitive). A mixed world ends
    when all stand on the prey, the others run to the horizon, which truncates. Success: all stand on the prey.

    A predator sees (2 vision + 1)^2 cells, row by row. Each is a one-hot cell number, or "outside", and two counts: of
    prey and of predators there, itself included. Dense, that is one vector of size^2 + 4 entries per cell (one of them
    is spare). As indices, it is the positions of the ones in that vector, then all counts of prey, then of predators.
    """

    def __init__(self, settings: PredatorPreySettings, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.settings, self.grid = settings, settings.grid
        self._num_cells = self.grid.size**2
        self._led = torch.as_tensor(destinations(self.grid.size), device=self.device)
        self.views = torch.as_tensor(views(self.grid.size, self.grid.vision), device=self.device)
        self.indexed = _indexed(self._num_cells, self.views.shape[1])
        self._positions = _positions(self.views).to(torch.float32)
        self._ends_early = settings.rewards == "mixed"
        dense = settings.observations == "dense"
        self.spec = TeamSpec(
            name="predator_prey",
            num_agents=self.grid.predators,
            observation_size=self.indexed.width if dense else 3 * self.views.shape[1],
            num_actions=len(MOVES) if settings.stay else len(MOVES) - 1,
            horizon=self.grid.horizon,
            setting=settings.setting,
            observation_bounds=(0, self.grid.predators if dense else self.indexed.width - 1),
            indexed=None if dense else self.indexed,
            floor="sweep",
            ceiling="oracle",
            card=card("predator_prey", settings.setting),
        )

    def _begin(self, episodes: Tensor) -> TeamStep:
        # The first of a random order of all cells.
        order = noise.words(self.keys, self._num_cells).topk(self.grid.predators + 1, dim=1).indices
        self._cells, self._prey = order[:, :-1].contiguous(), order[:, -1]
        if self.settings.moving_prey:
            keys = noise.absorb(self.keys, noise.stream_number("prey"))
            self._prey_moves = noise.choice(noise.uniform(keys, self.spec.horizon), len(MOVES))
        self._trail = [(self._cells, self._prey)]
        self._ever_seen = torch.zeros((self.num_worlds, self._num_cells + 1), dtype=torch.bool, device=self.device)
        self._steps_looked_at = 0
        self._steps_to_first = self._steps_to_all = torch.zeros(self.num_worlds, device=self.device)
        return self._observe(torch.zeros((self.num_worlds, self.grid.predators), device=self.device))

    def _advance(self, actions: Tensor) -> TeamStep:
        here, before = self.on_prey, self.on_prey.sum(1)
        self._steps_to_first = self._steps_to_first + (before == 0)
        self._steps_to_all = self._steps_to_all + (before < self.grid.predators)
        led = self._led.view(-1).take(self._cells * len(MOVES) + actions)
        self._cells = torch.where(here, self._cells, led)
        if self.settings.moving_prey:
            moved = self._led[self._prey, self._prey_moves[:, self.time - 1]]
            self._prey = torch.where(self.on_prey.any(1), self._prey, moved)
        self._trail.append((self._cells, self._prey))
        return self._observe(self._rewards())

    def _rewards(self) -> Tensor:
        here = self.on_prey
        if self._ends_early:
            return torch.where(here, 0.0, STEP_REWARD)
        number = here.sum(1, keepdim=True).to(torch.float32)
        share = number if self.settings.rewards == "cooperative" else 1 / number.clamp(min=1)
        return torch.where(here, PREY_REWARD * share, STEP_REWARD)

    def _observe(self, rewards: Tensor) -> TeamStep:
        here = self.on_prey
        everybody = torch.ones_like(here)
        all_there = here.all(1)
        ends = all_there & self._ends_early
        return TeamStep(
            observations=self._seen(),
            rewards=rewards,
            alive=everybody,
            spawned=~everybody,
            terminated=ends,
            truncated=self._at_horizon() & ~ends,
            info={
                "success": all_there.to(torch.float32),
                "on_prey": here.sum(1).to(torch.float32),
                "steps_to_first": self._steps_to_first,
                "steps_to_all": self._steps_to_all,
            },
        )

    def _seen(self) -> Tensor:
        """Observations [B, N, O]."""
        flat, shape = self._cells.view(-1), (*self._cells.shape, -1)
        view = self.views.index_select(0, flat).view(shape)
        # A cell more than there is holds the counts outside the grid: none.
        counts = torch.zeros((self.num_worlds, self._num_cells + 1), device=self.device)
        counts.scatter_add_(1, self._cells, torch.ones_like(self._cells, dtype=torch.float32))
        predators = counts.gather(1, view.flatten(1)).view(shape)
        prey = (view == self._prey.view(-1, 1, 1)).to(torch.float32)
        seen = torch.cat([self._positions.index_select(0, flat).view(shape), prey, predators], dim=-1)
        return seen if self.spec.indexed is not None else self.indexed.dense(seen)

    @property
    def on_prey(self) -> Tensor:
        """[B, N] bool, who stands on the prey."""
        return self._cells == self._prey.unsqueeze(1)

    @property
    def cells(self) -> Tensor:
        """[B, N] numbers of the predators' cells, row by row."""
        return self._cells

    @property
    def prey(self) -> Tensor:
        """[B] number of the prey's cell."""
        return self._prey

    @property
    def trail(self) -> list[tuple[Tensor, Tensor]]:
        """Cells of predators [B, N] and prey [B] at every step so far."""
        return self._trail

    @property
    def seen(self) -> Tensor:
        """[B, C] bool, which cells anybody has seen so far; made when it is asked for, as only scripts do."""
        for cells, _ in self._trail[self._steps_looked_at :]:
            self._ever_seen.scatter_(1, self.views[cells].flatten(1), True)
        self._steps_looked_at = len(self._trail)
        return self._ever_seen[:, :-1]

    def scripts(self) -> Mapping[str, Script]:
        from marlcomm.envs.predator_prey.scripts import SCRIPTS

        return SCRIPTS

    def render(self, world: int = 0) -> np.ndarray:
        from marlcomm.envs.predator_prey.picture import draw

        trail = [(cells[world].tolist(), int(prey[world])) for cells, prey in self._trail]
        return draw(self.grid, trail, steps=int(self._steps_to_all[world]) if self._ends_early else self.time)


def _indexed(cells: int, views: int) -> Indexed:
    """Per cell in view, the dense vector has an entry for each cell, a spare one, "outside", prey, predators."""
    starts = range(0, views * (cells + 4), cells + 4)
    columns = [start + cells + 2 + who for who in (0, 1) for start in starts]
    return Indexed(views * (cells + 4), views, tuple(columns))


def _positions(view: Tensor) -> Tensor:
    """Where the dense vector has its ones, for each own cell: [C, K]."""
    cells = len(view)
    entry = torch.where(view == cells, cells + 1, view)
    return entry + torch.arange(view.shape[1], device=view.device) * (cells + 4)
