"""Words of an environment's own: what its agents say by their actions, and where others observe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from marlcomm.envs.foreign.settings import PettingZooSettings
from marlcomm.registry import ConfigError, nearest


@dataclass(frozen=True)
class Words:
    """How agents of an environment talk without us.

    Attributes:
        said: agent -> how many different words its actions say (discrete), or how many numbers at the end of its action
            are what it says (box). An action is move + moves x word, as in MPE.
        heard: agent -> which numbers of its flattened observation are what the others said.
    """

    said: dict[str, int]
    heard: dict[str, list[int]]


def find_words(env: Any, agents: list[str], settings: PettingZooSettings) -> Words:
    """The words that the settings declare, or else those of MPE's environments (mpe2, and PettingZoo's before)."""
    found = _words_of_mpe(env.unwrapped)
    said, heard = settings.message_actions, settings.message_observations
    for key, declared in (("message_actions", said), ("message_observations", heard)):
        for agent in declared or {}:
            if agent not in agents:
                raise ConfigError(f"env.{key}: unknown agent {agent!r}; {nearest(agent, agents)}")
    ranges = None if heard is None else {agent: list(range(*ends)) for agent, ends in heard.items()}
    return Words(found.said if said is None else dict(said), found.heard if ranges is None else ranges)


def _words_of_mpe(base: Any) -> Words:
    world: Any = getattr(base, "world", None)
    scenario = getattr(base, "scenario", None)
    if not hasattr(world, "dim_c") or not hasattr(scenario, "observation"):
        return Words({}, {})
    said = {agent.name: int(world.dim_c) for agent in world.agents if not agent.silent}
    return Words(said, {agent.name: _heard_in_mpe(agent, world, scenario) for agent in world.agents} if said else {})


def _heard_in_mpe(agent: Any, world: Any, scenario: Any) -> list[int]:
    """Which numbers of an agent's observation change when the others' words do: found by changing them."""
    others = [other for other in world.agents if other is not agent]
    spoken = [other.state.c for other in others]
    seen = []
    for number in (0.25, 0.75):
        for other in others:
            other.state.c = np.full(world.dim_c, number)
        seen.append(np.asarray(scenario.observation(agent, world)))
    for other, words in zip(others, spoken, strict=True):
        other.state.c = words
    return [int(index) for index in np.nonzero(seen[0] != seen[1])[0]]
