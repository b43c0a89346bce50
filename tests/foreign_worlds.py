"""Third-party environments as their authors would write them: small, and each odd in its own way."""

from typing import ClassVar

import numpy as np
from gymnasium import Env, spaces
from pettingzoo import ParallelEnv


class Leavers(ParallelEnv):
    """Agent k of three has k + 2 actions and sees k + 1 numbers; it leaves after step 2 k + 2, with a reward of 10.

    Every other step is worth its action, in hundredths. The last agent is cut off at the end.
    """

    metadata: ClassVar = {"name": "leavers_v0", "render_modes": ["rgb_array"]}
    possible_agents: ClassVar = ["a", "b", "c"]
    max_cycles = 6

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def observation_space(self, agent):
        return spaces.Box(0, 1, (1 + self.possible_agents.index(agent),), np.float64)

    def action_space(self, agent):
        return spaces.Discrete(2 + self.possible_agents.index(agent))

    def reset(self, seed=None, options=None):
        self.random = np.random.default_rng(seed)
        self.time, self.agents = 0, list(self.possible_agents)
        return self._seen(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), (agent, action)
        self.time += 1
        before, index = self.agents, self.possible_agents.index
        cut = dict.fromkeys(before, self.time >= self.max_cycles)
        gone = {agent: self.time == 2 * index(agent) + 2 and not cut[agent] for agent in before}
        rewards = {agent: 10.0 if gone[agent] else actions[agent] / 100 for agent in before}
        self.agents = [agent for agent in before if not gone[agent] and not cut[agent]]
        infos = {agent: {"success": self.time >= 3} for agent in before}
        return self._seen(before), rewards, gone, cut, infos

    def _seen(self, agents):
        return {agent: self.random.random(self.observation_space(agent).shape) for agent in agents}

    def render(self):
        return np.full((4, 5, 3), self.time, np.uint8)


class Returners(Leavers):
    """Agent a is away in the steps 2 and 3."""

    def step(self, actions):
        given = {agent: action for agent, action in actions.items() if agent != "a"}
        self.time += 1
        self.agents = ["b", "c"] if self.time in (2, 3) else list(self.possible_agents)
        over = dict.fromkeys(given, False)
        if self.time >= self.max_cycles:
            over, self.agents = dict.fromkeys(self.agents, True), []
        return self._seen(self.agents or self.possible_agents), dict.fromkeys(given, 1.0), over, over, {}


class Strangers(Leavers):
    """Somebody joins whom nobody has announced."""

    def step(self, actions):
        answer = super().step(actions)
        self.agents = [*self.agents, "stranger"]
        return answer


class Failing(Leavers):
    """It breaks in step 3 of the episodes whose seed is divisible by three."""

    def reset(self, seed=None, options=None):
        self.seed = seed
        return super().reset(seed, options)

    def step(self, actions):
        if self.time == 2 and self.seed % 3 == 0:
            raise ArithmeticError("the world broke")
        return super().step(actions)


class Dying(Leavers):
    """Its process ends in step 2."""

    def step(self, actions):
        if self.time == 1:
            import os

            os._exit(7)
        return super().step(actions)


class Hanging(Leavers):
    """The second copy that a process makes does not answer in its step 2."""

    made = 0

    def __init__(self):
        super().__init__()
        type(self).made += 1
        self._hangs = self.made == 2

    def step(self, actions):
        if self.time == 1 and self._hangs:
            import time

            time.sleep(600)
        return super().step(actions)


class Boxes(Leavers):
    """Agents a and b act in boxes of their own, of different sizes and units; b sees a small picture."""

    possible_agents: ClassVar = ["a", "b"]
    boxes: ClassVar = {"a": spaces.Box(-2, 2, (2, 2), np.float64), "b": spaces.Box(np.float32([0]), np.float32([5]))}

    def observation_space(self, agent):
        return spaces.Discrete(4, start=1) if agent == "a" else spaces.Box(0, 255, (2, 2, 3), np.uint8)

    def action_space(self, agent):
        return self.boxes[agent]

    def step(self, actions):
        for agent, action in actions.items():
            assert self.action_space(agent).contains(action), (agent, action)
        self.time += 1
        self.taken = actions
        over = dict.fromkeys(self.agents, self.time >= self.max_cycles)
        rewards = {agent: float(np.sum(action)) for agent, action in actions.items()}
        seen = self._seen(self.agents)
        if self.time >= self.max_cycles:
            self.agents = []
        return seen, rewards, dict.fromkeys(over, False), over, {}

    def _seen(self, agents):
        return {agent: 3 if agent == "a" else np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20 for agent in agents}


class Telling(Leavers):
    """An action of a is a move of two and a word of three; b hears it. Declared, not found."""

    possible_agents: ClassVar = ["a", "b"]

    def observation_space(self, agent):
        return spaces.Box(0, 3, (2,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(6 if agent == "a" else 2)

    def reset(self, seed=None, options=None):
        self.word = 0
        return super().reset(seed, options)

    def step(self, actions):
        self.word = actions["a"] // 2
        self.time += 1
        over = dict.fromkeys(self.agents, self.time >= self.max_cycles)
        seen, self.agents = self._seen(self.agents), [] if self.time >= self.max_cycles else self.agents
        return seen, dict.fromkeys(over, 1.0), dict.fromkeys(over, False), over, {}

    def _seen(self, agents):
        return {agent: np.array([self.time / 10, self.word if agent == "b" else 0], np.float32) for agent in agents}


class Secrets(ParallelEnv):
    """A guide sees a bit, which its guest must name in every step but the first; the guest alone has a step to lose.

    The guide has one action only, so it can say nothing by it.
    """

    metadata: ClassVar = {"name": "secrets_v0"}
    possible_agents: ClassVar = ["guide", "guest"]
    max_cycles = 3

    def observation_space(self, agent):
        return spaces.Discrete(2) if agent == "guide" else spaces.Box(0, 1, (1,))

    def action_space(self, agent):
        return spaces.Discrete(1 if agent == "guide" else 2)

    def reset(self, seed=None, options=None):
        self.bit = int(np.random.default_rng(seed).integers(2))
        self.time, self.right, self.agents = 0, True, list(self.possible_agents)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        reward = float(actions["guest"] == self.bit) if self.time > 1 else 0.0
        self.right = self.right and (reward > 0 or self.time == 1)
        over = dict.fromkeys(self.agents, self.time >= self.max_cycles)
        infos = {agent: {"success": self.right} for agent in self.agents}
        self.agents = [] if self.time >= self.max_cycles else self.agents
        return self._seen(), dict.fromkeys(over, reward), over, dict.fromkeys(over, False), infos

    def _seen(self):
        return {"guide": self.bit, "guest": np.zeros(1, np.float32)}


class Nested(Leavers):
    def observation_space(self, agent):
        return spaces.Dict({"x": spaces.Discrete(2)})


class Mixed(Boxes):
    def action_space(self, agent):
        return self.boxes["a"] if agent == "a" else spaces.Discrete(2)


class Unbounded(Boxes):
    boxes = dict.fromkeys("ab", spaces.Box(-np.inf, np.inf, (2,)))


class Several(Leavers):
    def action_space(self, agent):
        return spaces.MultiDiscrete([2, 2])


class Nameless(Leavers):
    possible_agents: ClassVar = []


class Endless(Leavers):
    max_cycles = None


class Lying(Leavers):
    def _seen(self, agents):
        return {agent: np.zeros(9) for agent in agents}


class Alone(Env):
    pass


number = 5
