"""Asynchronous sampling: remote runners play a round while learners still learn from the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marlcomm.rllib.compat import COMPONENT_RL_MODULE, EnvRunnerGroup, ray
from marlcomm.rllib.runner import LEARNED, Sample

ASYNCHRONOUS = "asynchronous"
AHEAD = "ahead"  # its requests, and its part of a checkpoint


@dataclass(frozen=True)
class RoundAhead:
    """A round that is being played.

    Attributes:
        how: what runners were told of it, plain values.
        state: what they play it with: an `ObjectRef` of weights, and how many rounds these have learned from.
    """

    how: dict[str, Any]
    state: dict[str, Any]

    @staticmethod
    def begin(runners: EnvRunnerGroup, how: dict[str, Any], state: dict[str, Any]) -> RoundAhead:
        """Have all runners that live, which have the weights of `state`, play a round, and do not wait for it."""
        runners.foreach_env_runner_async("try_sample", tag=AHEAD, kwargs=how)
        return RoundAhead(how, state)

    def answers(self, runners: EnvRunnerGroup, seconds: float) -> dict[int, Sample | str | None]:
        """What each runner answered, as far as that is there within so many seconds; nothing of those that died."""
        return dict(runners.fetch_ready_async_reqs(tags=AHEAD, timeout_seconds=seconds))

    def stored(self) -> dict[str, Any]:
        """All that is needed to play it again, as plain values and arrays."""
        weights = ray.get(self.state[COMPONENT_RL_MODULE])
        return {"how": self.how, LEARNED: self.state[LEARNED], COMPONENT_RL_MODULE: weights}
