"""Particle Spread: N discs with inertia cover N landmarks (Lowe et al. 2017), whole or with a partial view.

Physics, rewards and the observations of the views `full` and `nearest` are those of mpe2 1.1.1 (`simple_spread_v3`,
PettingZoo's order of integration, no collisions with oneself). The other views are our own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import Script, TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.cards import card
from marlcomm.envs.particle_spread.physics import MOVES, PUSH, TOUCH, Pairs, lengths, moved
from marlcomm.envs.particle_spread.settings import ParticleSpreadSettings
from marlcomm.envs.particle_spread.views import Scene, observation_size, observe

CAPTURE = 0.1  # how near an agent must be to cover a landmark: mpe2's capture radius
_FLOORS = {"full": "own_view", "nearest": "own_view", "radius": "own_view", "other_landmark": "formation"}


class ParticleSpread(TeamEnv):
    """B batched planes. Agents start anywhere in the square [-1, 1] x [-1, 1], at rest; landmarks stay where they are.

    Actions: 0 stay, 1 left, 2 right, 3 down, 4 up push with a force of 5; a continuous one holds a share of each push,
    and opposite ones cancel. A step moves everybody by a tenth of the velocity, then takes a quarter off the
    velocities and adds a tenth of the forces: pushes, and those of agents that touch. Then agent i earns
    (1 - local_ratio) * -(sum over landmarks of the distance to the nearest agent) + local_ratio * -(agents that it
    touches). In the view `other_landmark`, landmark k counts the distance to agent k. The horizon truncates.

    An observation is [own velocity, own position, what the view adds]; `views` says what.
    """

    def __init__(self, settings: ParticleSpreadSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.settings = settings
        self._pairs = Pairs(settings.agents, self.device)
        self._pushes = PUSH * torch.tensor(MOVES, device=self.device)
        continuous = settings.actions == "continuous"
        self.spec = TeamSpec(
            name="particle_spread",
            num_agents=settings.agents,
            observation_size=observation_size(settings),
            num_actions=len(MOVES),
            action_bounds=(0.0, 1.0) if continuous else None,
            horizon=settings.horizon,
            setting=settings.setting,
            floor=_FLOORS[settings.view],
            ceiling="oracle",
            card=card("particle_spread", settings.setting),
        )

    def _begin(self, episodes: Tensor) -> TeamStep:
        places = noise.uniform(self.keys, 2 * self.settings.agents, 2).mul_(2.0).sub_(1.0)
        positions, landmarks = places.chunk(2, dim=1)
        return self.place(positions, _onto_rim(landmarks) if self.settings.on_rim else landmarks)

    def place(self, positions: Tensor, landmarks: Tensor, velocities: Tensor | None = None) -> TeamStep:
        """Begin the episode again from positions, landmarks and velocities [B, N, 2] (None: at rest).

        Everything is then computed, and returned, in the precision of these.
        """
        at, goals = positions.permute(1, 2, 0).contiguous(), landmarks.permute(1, 2, 0).contiguous()
        going = torch.zeros_like(at) if velocities is None else velocities.permute(1, 2, 0).contiguous()
        self.time = 0
        self._forces = torch.zeros_like(positions)
        self._collisions = positions.new_zeros(self.num_worlds)
        self._distance = positions.new_zeros(self.num_worlds)
        self._past: list[Tensor] = []
        self._look(Scene(at, going, goals))
        return self._now(positions.new_zeros(positions.shape[:2]))

    def _advance(self, actions: Tensor) -> TeamStep:
        if self.spec.action_bounds is None:
            return self._push(self._pushes[actions])
        return self._push(actions.to(self._forces.dtype) @ self._pushes.to(self._forces.dtype))

    def _push(self, forces: Tensor) -> TeamStep:
        """A step in which forces [B, N, 2] push the agents, whatever kind of action they come from."""
        scene, self._forces = self._scene, forces
        contact = self._pairs.contact_forces(self._apart, self._gaps)
        positions, velocities = moved(scene.positions, scene.velocities, contact.add_(forces.permute(1, 2, 0)))
        self._past.append(scene.positions)
        self._look(Scene(positions, velocities, scene.landmarks))
        touching = (self._gaps < TOUCH).to(positions.dtype)
        distance = self._nearest.sum(0)
        self._collisions = self._collisions + touching.sum(0)
        self._distance = self._distance + distance
        ratio = self.settings.local_ratio
        rewards = self._pairs.count(touching).mul_(-ratio).sub_(distance, alpha=1 - ratio)
        return self._now(rewards.t().contiguous())

    def _look(self, scene: Scene) -> None:
        """Measure a new scene: pairs and their gaps [P, B], and how near [N, B] each landmark is to who covers it."""
        self._scene = scene
        self._apart = self._pairs.apart(scene.positions)
        self._gaps = lengths(self._apart)
        if self.settings.view == "other_landmark":
            self._nearest = lengths(scene.landmarks - scene.positions)
        else:
            self._nearest = scene.landmark_distances.amin(0)

    def _now(self, rewards: Tensor) -> TeamStep:
        covered = self._nearest < CAPTURE
        everybody = torch.ones(rewards.shape, dtype=torch.bool, device=self.device)
        return TeamStep(
            observations=observe(self.settings, self._scene),
            rewards=rewards,
            alive=everybody,
            spawned=~everybody,
            terminated=torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device),
            truncated=self._at_horizon(),
            info={
                "success": covered.all(0).to(self._nearest.dtype),
                "coverage": covered.to(self._nearest.dtype).mean(0),
                "collisions": self._collisions,
                "landmark_distance": self._distance / max(self.time, 1),
            },
        )

    @property
    def positions(self) -> Tensor:
        """[B, N, 2] of the agents."""
        return self._scene.positions.permute(2, 0, 1)

    @property
    def velocities(self) -> Tensor:
        """[B, N, 2] of the agents."""
        return self._scene.velocities.permute(2, 0, 1)

    @property
    def landmarks(self) -> Tensor:
        """[B, N, 2] positions."""
        return self._scene.landmarks.permute(2, 0, 1)

    def scripts(self) -> Mapping[str, Script]:
        from marlcomm.envs.particle_spread.scripts import SCRIPTS

        return SCRIPTS

    def render(self, world: int = 0) -> np.ndarray:
        from marlcomm.envs.particle_spread.picture import Shot, draw

        path = [scene[:, :, world].tolist() for scene in [*self._past, self._scene.positions]]
        shot = Shot(
            path=path,
            landmarks=self._scene.landmarks[:, :, world].tolist(),
            forces=self._forces[world].tolist(),
            time=self.time,
            collisions=int(self._collisions[world]),
        )
        return draw(self.settings, shot)


def _onto_rim(places: Tensor) -> Tensor:
    """Places [B, N, 2] in the square, uniform, to places on its rim, uniform: x chooses a side, y where on it."""
    side = ((places[..., 0] + 1.0) * 2.0).to(torch.int64)
    edge = (side % 2 * 2 - 1).to(places.dtype)
    along = places[..., 1]
    return torch.where((side < 2).unsqueeze(-1), torch.stack([edge, along], -1), torch.stack([along, edge], -1))
