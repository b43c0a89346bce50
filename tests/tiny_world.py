"""A world that silence cannot solve: each of two agents must name the bit that only the other one sees."""

import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs import EnvSettings, TeamEnv, TeamSpec, TeamStep, register_env

STEPS = 4


@register_env("relay")
class Relay(TeamEnv):
    """Bits stay for the episode; from the second step on, naming the other's bit is worth 1.

    The world ends for good after the last step: nothing is to be expected beyond.
    """

    def __init__(self, settings: EnvSettings, device: str = "cpu") -> None:
        super().__init__(device)
        self.spec = TeamSpec("relay", num_agents=2, observation_size=3, num_actions=2, horizon=STEPS, setting="relay")

    def _begin(self, episodes: Tensor) -> TeamStep:
        self._bits = noise.choice(noise.uniform(self.keys, 2), 2)
        self._right = torch.ones(self.num_worlds)
        return self._now(torch.zeros(self.num_worlds, 2))

    def _advance(self, actions: Tensor) -> TeamStep:
        right = actions == self._bits.flip(1)
        if self.time > 1:
            self._right = self._right * right.all(1)
        return self._now(right.float() * (self.time > 1))

    def _now(self, rewards: Tensor) -> TeamStep:
        everybody = torch.ones(self.num_worlds, 2, dtype=torch.bool)
        bits = torch.nn.functional.one_hot(self._bits, 2)
        seen = torch.cat([bits, torch.full((self.num_worlds, 2, 1), self.time)], -1)
        return TeamStep(
            observations=seen.float(),
            rewards=rewards,
            alive=everybody,
            spawned=~everybody,
            terminated=self._at_horizon(),
            truncated=torch.zeros(self.num_worlds, dtype=torch.bool),
            info={"success": self._right},
        )
