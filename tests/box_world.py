"""A world whose actions are points of a box: reach a target that oneself, or only the other one, sees."""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from marlcomm import noise
from marlcomm.envs import EnvSettings, TeamEnv, TeamSpec, TeamStep, register_env
from marlcomm.envs.base import Script
from marlcomm.envs.scripts import random_actions

LOW, HIGH = (-1.0, 0.5), (1.0, 4.5)
NEAR = 0.25  # of half the box's width


class ReachSettings(EnvSettings):
    horizon: int = Field(1, ge=1, description="steps of an episode")
    told: bool = Field(False, description="the target is seen by the other agent only")
    led: bool = Field(False, description="agent 0 only speaks, agent 1 only acts")


@register_env("reach", settings=ReachSettings)
class Reach(TeamEnv):
    """Each of two agents is paid minus the squared distance to its target, a point of the box, at every step.

    Distances are in units of half the box's width. An episode is a success if whoever acts was always near.
    """

    def __init__(self, settings: ReachSettings, device: str = "cpu") -> None:
        super().__init__(device)
        self.settings = settings
        self.spec = TeamSpec(
            "reach",
            num_agents=2,
            observation_size=2,
            num_actions=2,
            horizon=settings.horizon,
            setting="reach",
            observation_bounds=(-1, 1),
            action_bounds=(LOW, HIGH),
            speakers=(True, False) if settings.led else None,
            actors=(False, True) if settings.led else None,
            floor="random",
            ceiling="there",
        )

    def _begin(self, episodes: Tensor) -> TeamStep:
        self.target = 2 * noise.uniform(self.keys, 2, 2) - 1
        self.actions = torch.zeros(self.num_worlds, 2, 2)
        self._near = torch.ones(self.num_worlds)
        return self._now(torch.zeros(self.num_worlds, 2))

    def _advance(self, actions: Tensor) -> TeamStep:
        self.actions = actions
        distances = (self.spec.actions.units(actions) - self.target).square().mean(-1)
        if self.spec.actors is not None:
            distances = distances * torch.tensor(self.spec.actors)
        self._near = self._near * (distances < NEAR**2).all(1)
        return self._now(-distances)

    def scripts(self) -> Mapping[str, Script]:
        return {"random": random_actions, "there": lambda env: env.spec.actions.point(env.target)}

    def _now(self, rewards: Tensor) -> TeamStep:
        everybody = torch.ones(self.num_worlds, 2, dtype=torch.bool)
        return TeamStep(
            observations=self.target.flip(1) if self.settings.told else self.target,
            rewards=rewards,
            alive=everybody,
            spawned=~everybody,
            terminated=self._at_horizon(),
            truncated=torch.zeros(self.num_worlds, dtype=torch.bool),
            info={"success": self._near},
        )
