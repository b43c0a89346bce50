"""Traffic Junction: cars that cannot see each other cross a junction, and crash unless they talk.

Rules, order of a step and observation as published with IC3Net (Singh et al. 2019, after Sukhbaatar et al. 2016).
One clean change is on by default: a slot that gets a new car is reported as spawned and keeps nothing of the last
car (`legacy: true` undoes it).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import Script, TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.cards import best_of, card
from marlcomm.envs.traffic_junction.roads import Difficulty, RoadMap, road_map
from marlcomm.envs.traffic_junction.settings import CARS, HORIZONS, TrafficJunctionSettings

GAS, BRAKE = 0, 1
CRASH_REWARD = -10.0
WAIT_REWARD = -0.01


@dataclass(frozen=True)
class _Tables:
    """The geometry as lookup tables. A *pose* is a route and how far along it; the last pose is "off the road".

    P poses, K cells of a patch, W padded grid cells, R routes.
    """

    first_pose: Tensor  # [R] pose of each route's first cell
    length: Tensor  # [P] length of the pose's route
    progress: Tensor  # [P] cells driven so far
    entry: Tensor  # [P] where the pose's route begins
    cell: Tensor  # [P] cell in the padded grid; off the road: W, a cell nobody sees
    patch: Tensor  # [P, K] padded-grid cells in view
    features: Tensor  # [P, O] observation without last action and cars
    entries: Tensor  # [E] routes per entry
    first_route: Tensor  # [E]
    grid_cells: int
    off_road: int


class TrafficJunction(TeamEnv):
    """B batched junctions.

    Actions: 0 GAS moves one cell along the route, 1 BRAKE stays. A car leaves when it gives GAS on its last cell.
    Order of a step: cars move and leave; each entry in order spawns a car with the arrival rate while a slot is
    free (even onto an occupied entry cell); then rewards: -0.01 for each step since entry, and -10 while another
    car is in the same cell. Crashed cars drive on. An episode is a success if nobody ever crashed. The horizon
    truncates.

    An observation is [last action, route / (R - 1), patch]: the patch holds, for each cell in view, a one-hot
    road-cell number and the count of cars there (own car included). With `clock`, t / horizon follows.
    """

    def __init__(self, settings: TrafficJunctionSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.settings = settings
        self.roads = road_map(settings.difficulty)
        self._tables = _lookup_tables(settings.difficulty, settings.vision, self.device)
        cells = (2 * settings.vision + 1) ** 2
        self._car_channel = (
            2 + self.roads.num_ids + 2 + torch.arange(cells, device=self.device) * _vocabulary(self.roads)
        )
        setting = f"{settings.difficulty}-vision{settings.vision}-rate{settings.final_rate:g}"
        setting += "-clock" if settings.clock else ""
        measured = card("traffic_junction", setting)
        knows_time = settings.clock or settings.legacy  # a memory that runs on from car to car can count the steps
        self.spec = TeamSpec(
            name="traffic_junction",
            num_agents=CARS[settings.difficulty],
            observation_size=self._tables.features.shape[1] + settings.clock,
            num_actions=2,
            horizon=HORIZONS[settings.difficulty],
            setting=setting,
            observation_bounds=(0, CARS[settings.difficulty]),
            keeps_memory=settings.legacy,
            floor=best_of(["always_gas", "timetable"], measured) if knows_time else "always_gas",
            ceiling="scheduler",
            card=measured,
        )

    def _begin(self, episodes: Tensor) -> TeamStep:
        shape = (self.num_worlds, self.spec.num_agents)
        self._plan_arrivals(episodes)
        self._alive = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self._pose = torch.full(shape, self._tables.off_road, device=self.device)
        self._wait = torch.zeros(shape, device=self.device)
        self._last_action = torch.zeros(shape, dtype=torch.int64, device=self.device)
        self._crashes = torch.zeros(self.num_worlds, device=self.device)
        self._cars = torch.zeros(self.num_worlds, device=self.device)
        return self._observe(spawned=torch.zeros_like(self._alive))

    def _plan_arrivals(self, episodes: Tensor) -> None:
        """Draw every arrival of the episode at once: who comes in at which step, and in which order slots fill."""
        entries = len(self.roads.entries)
        horizon, slots = self.spec.horizon, self.spec.num_agents
        words = noise.words(self.keys, horizon, entries + slots)
        rates = torch.tensor([self.settings.rate(int(e)) for e in episodes.tolist()], device=self.device)
        arrives = noise.to_uniform(words[..., :entries]) <= rates.view(-1, 1, 1)
        # The high bits of a word say whether a car comes, its low bits say which route of its entry it takes.
        chosen = ((words[..., :entries] & 0xFFFFFFFF) * self._tables.entries) >> 32
        poses = self._tables.first_pose[self._tables.first_route + chosen]
        # The k-th arrival of a step takes the k-th free slot in a random order of the slots, which is the same as
        # drawing a free slot for each in turn.
        order = torch.argsort(arrives.logical_not().to(torch.int8), dim=-1, stable=True)
        self._arriving_poses = poses.gather(-1, order)
        self._arrivals = arrives.sum(-1, keepdim=True)
        self._slot_order = torch.argsort(words[..., entries:], dim=-1)

    def _advance(self, actions: Tensor) -> TeamStep:
        tables, acted = self._tables, self._alive
        gas = acted & (actions == GAS)
        left = gas & (tables.progress[self._pose] + 1 == tables.length[self._pose])
        self._alive = acted & ~left
        self._pose = torch.where(left, tables.off_road, self._pose + gas.to(torch.int64))
        self._wait = torch.where(self._alive, self._wait + 1, 0.0)
        self._last_action = torch.where(self._alive, actions, self._last_action)
        spawned = self._spawn()
        return self._observe(spawned)

    def _spawn(self) -> Tensor:
        """Let the planned cars of this step in; returns [B, N], which slots got one."""
        step = self.time - 1
        order = self._slot_order[:, step]
        free = ~self._alive.gather(1, order)
        rank = free.cumsum(1) - 1
        entering = free & (rank < self._arrivals[:, step])
        poses = self._arriving_poses[:, step].gather(1, rank.clamp(0, self._arriving_poses.shape[-1] - 1))
        spawned = torch.zeros_like(self._alive).scatter_(1, order, entering)
        pose = torch.empty_like(self._pose).scatter_(1, order, poses)
        self._pose = torch.where(spawned, pose, self._pose)
        self._alive = self._alive | spawned
        self._cars = self._cars + spawned.sum(1)
        if not self.settings.legacy:
            self._last_action = self._last_action * ~spawned
        return spawned

    def _observe(self, spawned: Tensor) -> TeamStep:
        tables, alive = self._tables, self._alive.to(torch.float32)
        cells = tables.cell[self._pose]
        counts = torch.zeros((self.num_worlds, tables.grid_cells + 1), device=self.device).scatter_add_(1, cells, alive)
        crashed = self._alive & (counts.gather(1, cells) > 1)
        rewards = WAIT_REWARD * self._wait + CRASH_REWARD * crashed.to(torch.float32)
        self._crashes = self._crashes + crashed.sum(1)
        observations = tables.features.index_select(0, self._pose.view(-1)).view(*self._pose.shape, -1)
        observations[..., 0] = self._last_action * alive
        in_view = counts.gather(1, tables.patch[self._pose].flatten(1)).view(*self._pose.shape, -1)
        observations[..., self._car_channel] = in_view * alive.unsqueeze(-1)
        if self.settings.clock:
            observations = torch.cat([observations, alive.unsqueeze(-1) * (self.time / self.spec.horizon)], -1)
        ongoing = torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device)
        return TeamStep(
            observations=observations,
            rewards=rewards,
            alive=self._alive,
            spawned=spawned,
            terminated=ongoing,
            truncated=self._at_horizon(),
            info={
                "success": (self._crashes == 0).to(torch.float32),
                "crashes": self._crashes,
                "cars": self._cars,
            },
        )

    @property
    def waited(self) -> Tensor:
        """[B, N] steps since entry."""
        return self._wait

    def positions(self) -> tuple[Tensor, Tensor, Tensor]:
        """The true state, for scripts: alive [B, N], the cell of each car, and the cell that GAS would bring it to.

        Cells are numbers in a row-major grid; -1 is off the road.
        """
        tables = self._tables
        leaves = tables.progress[self._pose] + 1 >= tables.length[self._pose]
        here = torch.where(self._alive, tables.cell[self._pose], -1)
        ahead = torch.where(leaves, -1, tables.cell[(self._pose + 1).clamp(max=tables.off_road)])
        return self._alive, here, torch.where(self._alive, ahead, -1)

    @property
    def driven(self) -> tuple[Tensor, Tensor]:
        """[B, N] each: the entry by which a car came in, and how many cells it has driven; 0, 0 in empty slots."""
        return self._tables.entry[self._pose], self._tables.progress[self._pose]

    def scripts(self) -> Mapping[str, Script]:
        from marlcomm.envs.traffic_junction.scripts import SCRIPTS

        return SCRIPTS

    def render(self, world: int = 0) -> np.ndarray:
        from marlcomm.envs.traffic_junction.picture import Car, draw

        cars = [
            Car(slot, *self.where(world, slot), braked=bool(self._last_action[world, slot] == BRAKE))
            for slot in range(self.spec.num_agents)
            if bool(self._alive[world, slot])
        ]
        return draw(self.roads, cars, time=self.time, horizon=self.spec.horizon, crashes=int(self._crashes[world]))

    def where(self, world: int, slot: int) -> tuple[int, int]:
        """The route of a living car and how many cells of it lie behind the car."""
        pose = int(self._pose[world, slot])
        route = int((self._tables.first_pose <= pose).sum()) - 1
        return route, int(self._tables.progress[pose])


def _vocabulary(roads: RoadMap) -> int:
    """Entries of one cell of a patch: road-cell numbers, "outside", a spare one, the count of cars."""
    return roads.num_ids + 3


@functools.cache
def _lookup_tables(difficulty: Difficulty, vision: int, device: torch.device) -> _Tables:
    roads = road_map(difficulty)
    width = roads.size + 2 * vision
    vocabulary, car = _vocabulary(roads), roads.num_ids + 2
    routes, progress, length, cells, patches = [], [], [], [], []
    for number, route in enumerate(roads.routes):
        for driven, (row, column) in enumerate(route):
            routes.append(number)
            progress.append(driven)
            length.append(len(route))
            cells.append((row + vision) * width + column + vision)
            patches.append(
                [(row + y) * width + column + x for y in range(2 * vision + 1) for x in range(2 * vision + 1)]
            )
    off_road, outside_grid = len(routes), width * width
    seen_as = np.full(outside_grid, roads.num_ids)
    for (row, column), number in roads.cell_ids.items():
        seen_as[(row + vision) * width + column + vision] = number
    patch = np.array([*patches, [outside_grid] * (2 * vision + 1) ** 2])
    features = np.zeros((off_road + 1, 2 + patch.shape[1] * vocabulary), dtype=np.float32)
    features[:off_road, 1] = np.array(routes) / max(len(roads.routes) - 1, 1)
    poses = np.arange(off_road)
    for index in range(patch.shape[1]):
        features[poses, 2 + index * vocabulary + seen_as[patch[:off_road, index]]] = 1.0
    assert car < vocabulary

    def as_tensor(values: object) -> Tensor:
        return torch.as_tensor(np.asarray(values), device=device)

    entry_of = [entry for entry, of_entry in enumerate(roads.entries) for _ in of_entry]
    starts = [pose for pose, driven in enumerate(progress) if driven == 0]
    return _Tables(
        first_pose=as_tensor(starts),
        length=as_tensor([*length, 0]),
        progress=as_tensor([*progress, 0]),
        entry=as_tensor([*(entry_of[route] for route in routes), 0]),
        cell=as_tensor([*cells, outside_grid]),
        patch=as_tensor(patch),
        features=as_tensor(features),
        entries=as_tensor([len(routes) for routes in roads.entries]),
        first_route=as_tensor([routes[0] for routes in roads.entries]),
        grid_cells=outside_grid,
        off_road=off_road,
    )
