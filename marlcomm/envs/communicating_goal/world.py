"""Communicating Goal: one agent knows where to go, the other one walks (Kapoor et al. 2025, the toy problem of DDCL).

Rules, goals and weights as published. Observations are normalised here (the published environment returns raw
coordinates, and one of its analyses feeds normalised ones to a network trained on those).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import Script, TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.cards import card
from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings
from marlcomm.envs.communicating_goal.walks import (
    GOAL_REWARD,
    MOVES,
    STEP_REWARD,
    cells,
    destinations,
    steps_between,
)

SPEAKER, LISTENER = 0, 1


class CommunicatingGoal(TeamEnv):
    """B batched grids. Slot 0 speaks: it sees the goal and stands still. Slot 1 listens: it sees itself and walks.

    Actions: 0 stay, 1 y - 1, 2 y + 1, 3 x + 1, 4 x - 1, clipped at the border; those of the speaker are ignored. The
    team earns +1 on the step that reaches the goal, which ends the world, and -0.01 on every other one; each slot
    gets half of it, so a team's return is the published one and no share of rewards changes what is learned. The
    horizon truncates.

    An observation is [is speaker, is listener, goal, own cell], zero where an agent cannot see. A cell is x and y over
    size - 1, or a one-hot column and a one-hot row.
    """

    def __init__(self, settings: CommunicatingGoalSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.settings = settings
        grid = list(cells(settings))
        self._led = torch.as_tensor(destinations(settings.size), device=self.device)
        self._goal_cells = self._tensor([grid.index(goal) for goal in settings.goals])
        self._distances = self._tensor([[steps_between(cell, goal) for goal in settings.goals] for cell in grid])
        # The sum of all chances is left out: every draw beyond the last but one is the last goal.
        self._below = self._tensor(np.cumsum(settings.chances)[:-1])
        self._views = self._tensor(_views(settings))
        self.spec = TeamSpec(
            name="communicating_goal",
            num_agents=2,
            observation_size=self._views.shape[-1],
            num_actions=len(MOVES),
            horizon=settings.horizon,
            setting=settings.setting,
            observation_bounds=(0, 1),
            speakers=(True, False),
            actors=(False, True),
            floor="tour",
            ceiling="oracle",
            card=card("communicating_goal", settings.setting),
        )

    def _tensor(self, values: object) -> Tensor:
        return torch.as_tensor(np.asarray(values), device=self.device)

    def _begin(self, episodes: Tensor) -> TeamStep:
        draws = noise.uniform(self.keys, 2)
        self._goal = (draws[:, :1] > self._below).sum(1)
        place = noise.choice(draws[:, 1], self.settings.size**2 - 1)
        self._cell = place + (place >= self.goal_cell)
        self._path = [self._cell]
        self._steps = torch.zeros(self.num_worlds, device=self.device)
        return self._observe(torch.zeros(self.num_worlds, device=self.device))

    def _advance(self, actions: Tensor) -> TeamStep:
        walking = ~self.reached
        moved = self._led[self._cell, actions[:, LISTENER]]
        self._cell = torch.where(walking, moved, self._cell)
        self._path.append(self._cell)
        self._steps = self._steps + walking
        return self._observe(walking * torch.where(self.reached, GOAL_REWARD, STEP_REWARD))

    def _observe(self, rewards: Tensor) -> TeamStep:
        seen = torch.stack([self._views[SPEAKER, self.goal_cell], self._views[LISTENER, self._cell]], dim=1)
        everybody = torch.ones((self.num_worlds, 2), dtype=torch.bool, device=self.device)
        return TeamStep(
            observations=seen,
            rewards=(rewards / 2).unsqueeze(1).expand(-1, 2),
            alive=everybody,
            spawned=~everybody,
            terminated=self.reached,
            truncated=self._at_horizon() & ~self.reached,
            info={
                "success": self.reached.to(torch.float32),
                "steps_to_goal": self._steps,
                "distance": self._distances[self.start, self._goal].to(torch.float32),
                "goal": self._goal.to(torch.float32),
            },
        )

    @property
    def reached(self) -> Tensor:
        """[B] bool, who stands on the goal."""
        return self._cell == self.goal_cell

    @property
    def goal_cell(self) -> Tensor:
        """[B] number of the goal's cell, y * size + x."""
        return self._goal_cells[self._goal]

    @property
    def cell(self) -> Tensor:
        """[B] number of the listener's cell."""
        return self._cell

    @property
    def start(self) -> Tensor:
        """[B] number of the cell where the listener began."""
        return self._path[0]

    def scripts(self) -> Mapping[str, Script]:
        from marlcomm.envs.communicating_goal.scripts import SCRIPTS

        return SCRIPTS

    def render(self, world: int = 0) -> np.ndarray:
        from marlcomm.envs.communicating_goal.picture import draw

        path = [int(cells[world]) for cells in self._path]
        return draw(self.settings, goal=int(self._goal[world]), path=path, steps=int(self._steps[world]))


def _views(settings: CommunicatingGoalSettings) -> np.ndarray:
    """What the speaker sees where a cell is the goal, and the listener where it stands there: [2, cells, O]."""
    places = np.array([_place(settings, x, y) for x, y in cells(settings)], dtype=np.float32)
    views = np.zeros((2, len(places), 2 + 2 * places.shape[1]), dtype=np.float32)
    for role, first in ((SPEAKER, 2), (LISTENER, 2 + places.shape[1])):
        views[role, :, role] = 1.0
        views[role, :, first : first + places.shape[1]] = places
    return views


def _place(settings: CommunicatingGoalSettings, x: int, y: int) -> list[float]:
    if settings.encoding == "coordinates":
        return [x / (settings.size - 1), y / (settings.size - 1)]
    return [float(column == x) for column in range(settings.size)] + [float(row == y) for row in range(settings.size)]
