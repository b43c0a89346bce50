"""What an agent of Particle Spread sees, in four ways: all, the nearest few, what is near, another one's landmark."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from marlcomm.envs.particle_spread.physics import lengths
from marlcomm.envs.particle_spread.settings import ParticleSpreadSettings

_SPEECH = 2  # numbers that each other agent says in mpe2, where none of them can speak: zeros


class Scene:
    """Where everything is in B worlds: positions, velocities and landmarks [N, 2, B]."""

    def __init__(self, positions: Tensor, velocities: Tensor, landmarks: Tensor) -> None:
        self.positions, self.velocities, self.landmarks = positions, velocities, landmarks

    @functools.cached_property
    def to_landmarks(self) -> Tensor:
        """[N, N, 2, B] from each agent to each landmark."""
        return self.landmarks - self.positions.unsqueeze(1)

    @functools.cached_property
    def to_others(self) -> Tensor:
        """[N, N - 1, 2, B] from each agent to the others, in the order of their slots."""
        others = others_of(len(self.positions), self.positions.device)
        there = self.positions.index_select(0, others.flatten()).view(*others.shape, 2, -1)
        return there.sub_(self.positions.unsqueeze(1))

    @functools.cached_property
    def landmark_distances(self) -> Tensor:
        """[N, N, B] from each agent to each landmark."""
        return lengths(self.to_landmarks)

    @functools.cached_property
    def other_distances(self) -> Tensor:
        """[N, N - 1, B] from each agent to the others, in the order of their slots."""
        return lengths(self.to_others)


@functools.cache
def others_of(agents: int, device: torch.device) -> Tensor:
    """[N, N - 1] the slots of each agent's others."""
    slots = torch.arange(agents, device=device)
    return slots.expand(agents, agents)[slots != slots.unsqueeze(1)].view(agents, agents - 1)


View = Callable[[ParticleSpreadSettings, Scene], list[Tensor]]


def observe(settings: ParticleSpreadSettings, scene: Scene) -> Tensor:
    """Observations [B, N, O]: own velocity, own position, and what the view adds to them."""
    seen = torch.cat([scene.velocities, scene.positions, *VIEWS[settings.view](settings, scene)], dim=1)
    agents, size, worlds = seen.shape
    return seen.view(-1, worlds).t().contiguous().view(worlds, agents, size)


def observation_size(settings: ParticleSpreadSettings) -> int:
    """O."""
    nothing = torch.zeros(settings.agents, 2, 1)
    return observe(settings, Scene(nothing, nothing, nothing)).shape[-1]


def _full(settings: ParticleSpreadSettings, scene: Scene) -> list[Tensor]:
    """All landmarks, all others, and the zeros that the others say."""
    others = scene.to_others.flatten(1, 2)
    return [scene.to_landmarks.flatten(1, 2), others, _speech(others)]


def _nearest(settings: ParticleSpreadSettings, scene: Scene) -> list[Tensor]:
    """The nearest landmarks and others, and the zeros that these others say."""
    landmarks = _closest(scene.to_landmarks, scene.landmark_distances, settings.nearest_landmarks)
    others = _closest(scene.to_others, scene.other_distances, settings.nearest_agents)
    return [landmarks, others, _speech(others)]


def _radius(settings: ParticleSpreadSettings, scene: Scene) -> list[Tensor]:
    """Landmarks and others in fixed slots, zero where they are out of sight, then a bit for each: who is in sight."""
    seen = torch.cat([scene.to_landmarks, scene.to_others], dim=1)
    visible = torch.cat([scene.landmark_distances, scene.other_distances], dim=1) <= settings.radius
    return [(seen * visible.unsqueeze(2)).flatten(1, 2), visible.to(seen.dtype)]


def _other_landmark(settings: ParticleSpreadSettings, scene: Scene) -> list[Tensor]:
    """Landmark i + 1 mod N alone, and no others: a team that sees itself talks with its bodies."""
    return [scene.landmarks.roll(-1, 0) - scene.positions]


def _closest(vectors: Tensor, distances: Tensor, count: int | None) -> Tensor:
    """The nearest of vectors [N, M, 2, B], nearest first, so that who they are is not told: [N, 2 * count, B].

    Zeros where M is less; None: all of them, as they are.
    """
    if count is None:
        return vectors.flatten(1, 2)
    there = min(count, vectors.shape[1])
    nearest = distances.topk(there, dim=1, largest=False).indices.unsqueeze(2).expand(-1, -1, 2, -1)
    seen = vectors.gather(1, nearest).flatten(1, 2)
    return torch.nn.functional.pad(seen, (0, 0, 0, 2 * (count - there)))


def _speech(others: Tensor) -> Tensor:
    """Zeros [N, M * 2, B] beside the positions [N, M * 2, B] of M others."""
    return others.new_zeros(()).expand(len(others), others.shape[1] // 2 * _SPEECH, others.shape[2])


VIEWS: dict[str, View] = {
    "full": _full,
    "nearest": _nearest,
    "radius": _radius,
    "other_landmark": _other_landmark,
}
