"""A world that silence cannot solve: each agent must name the bit that only the next one sees."""

import torch
from pydantic import Field
from torch import Tensor

from marlcomm import noise
from marlcomm.envs import EnvSettings, TeamEnv, TeamSpec, TeamStep, register_env

STEPS = 4


class RelaySettings(EnvSettings):
    agents: int = Field(2, ge=2, description="N")


@register_env("relay", settings=RelaySettings)
class Relay(TeamEnv):
    """Bits stay for the episode; from the second step on, naming the next one's bit is worth 1.

    The world ends for good after the last step: nothing is to be expected beyond.
    """

    labelled = True

    def __init__(self, settings: RelaySettings, device: str = "cpu") -> None:
        super().__init__(device)
        self.spec = TeamSpec(
            "relay", settings.agents, observation_size=3, num_actions=2, horizon=STEPS, setting="relay"
        )

    def _begin(self, episodes: Tensor) -> TeamStep:
        self._bits = noise.choice(noise.uniform(self.keys, self.spec.num_agents), 2)
        self._right = torch.ones(self.num_worlds)
        return self._now(torch.zeros(self.num_worlds, self.spec.num_agents))

    def _advance(self, actions: Tensor) -> TeamStep:
        right = actions == self._bits.roll(-1, 1)
        if self.time > 1:
            self._right = self._right * right.all(1)
        return self._now(right.float() * (self.time > 1))

    def _now(self, rewards: Tensor) -> TeamStep:
        everybody = torch.ones_like(self._bits, dtype=torch.bool)
        bits = torch.nn.functional.one_hot(self._bits, 2)
        seen = torch.cat([bits, torch.full((*self._bits.shape, 1), self.time)], -1)
        return TeamStep(
            observations=seen.float(),
            rewards=rewards,
            alive=everybody,
            spawned=~everybody,
            terminated=self._at_horizon(),
            truncated=torch.zeros(self.num_worlds, dtype=torch.bool),
            info={"success": self._right},
            labels=self._bits.roll(-1, 1),
        )


@register_env("sprint")
class Sprint(TeamEnv):
    """World w ends after 1 + w % 3 steps, odd ones for good and even ones cut short; afterwards it returns nonsense."""

    def __init__(self, settings: EnvSettings, device: str = "cpu") -> None:
        super().__init__(device)
        self.spec = TeamSpec("sprint", num_agents=2, observation_size=1, num_actions=2, horizon=STEPS, setting="sprint")

    def reset(self, seed: int, worlds: Tensor, episodes: Tensor, stream: str = "train") -> TeamStep:
        self._worlds = worlds
        return super().reset(seed, worlds, episodes, stream)

    def _begin(self, episodes: Tensor) -> TeamStep:
        return self._now()

    def _advance(self, actions: Tensor) -> TeamStep:
        return self._now()

    def scripts(self) -> dict:
        return {"idle": lambda env: torch.zeros(env.num_worlds, 2, dtype=torch.int64)}

    def _now(self) -> TeamStep:
        length = 1 + self._worlds % 3
        over = self.time > length
        everybody = torch.ones(self.num_worlds, 2, dtype=torch.bool)
        return TeamStep(
            observations=torch.full((self.num_worlds, 2, 1), float(self.time)),
            rewards=torch.where(over, 99.0, 1.0).unsqueeze(1).expand(-1, 2),
            alive=everybody,
            spawned=~everybody,
            terminated=(self.time >= length) & (self._worlds % 2 == 1),
            truncated=(self.time >= length) & (self._worlds % 2 == 0),
            info={"success": torch.where(over, 0.0, 1.0)},
        )
