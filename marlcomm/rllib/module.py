"""The team's policy as RLlib sees it: one module, whose rows are whole episodes of a whole team."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor

from marlcomm import checkpoint
from marlcomm.config import import_plugins
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.records import Decision, Moment
from marlcomm.policies.rollout import Rollout, channel_noise
from marlcomm.policies.team import TeamNames
from marlcomm.policies.values import TeamValues, ValueSettings
from marlcomm.rllib.compat import TorchRLModule

DECISION = "decision"


class TeamRLModule(TorchRLModule):
    """Everything trainable of a team. `model_config` holds names and plain settings, so any process can rebuild it.

    A batch holds columns [B, T, N, ...] (see `Objective.columns`); the output is ``{"decision": ...}``.
    """

    def setup(self) -> None:
        config = self.model_config
        import_plugins(config["imports"])
        names = TeamNames(**config["team"])
        self.seed: int = config["seed"]
        env = names.make_env()
        self.spec: TeamSpec = env.spec
        start = config["init_from"]
        self.policy = names.make_policy(
            env, self.seed, {} if start is None else names.start(checkpoint.read(Path(start)))
        )
        if start is not None:
            self.policy.quantiser.after_update(0)  # the channel's schedules begin anew
        values = ValueSettings(**config.get("values", {}))
        self.team_values = None if values.plain else TeamValues(self.policy, values, self.seed)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {DECISION: self.replay(batch)}

    def replay(self, batch: dict[str, Tensor]) -> Decision:
        """The policy's answers to recorded episodes, with the channel noise of the rollout."""
        policy, (steps, agents) = self.policy, batch["alive"].shape[1:3]
        noise = channel_noise(
            policy.channel, self.seed, "train", batch["world"], batch["episode"], steps, agents, policy.rounds
        )
        moment = Moment(batch["observations"], batch["alive"], batch["spawned"], batch.get("gates"), noise)
        decision: Decision = self.policy(moment, running=batch["running"])
        return decision if self.team_values is None else self.team_values.decision(self.policy, batch, decision, noise)

    def valued(self, rollout: Rollout) -> Rollout:
        """A rollout of training with the values that learners use."""
        return rollout if self.team_values is None else self.team_values.rollout(self.policy, rollout, self.seed)

    def columns(self, rollout: Rollout) -> dict[str, Tensor]:
        """What these values need of a rollout, besides an objective's columns."""
        return {} if self.team_values is None else self.team_values.columns(rollout)

    def learn_units(self, count: float, total: float, squares: float) -> None:
        """Take in the number, sum and sum of squares of a round's value targets, where values are standardised."""
        if self.team_values is not None:
            self.team_values.learn_units(self.policy, count, total, squares)

    @property
    def value_scale(self) -> Tensor | None:
        """The standard deviation of value targets that errors are measured in; None: in units of rewards."""
        norm = None if self.team_values is None else self.team_values.norm
        return None if norm is None else norm.scale

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Nothing to hold back: `TeamLearner` sums gradients itself. RLlib's learner asks for this method."""
        yield


def spaces(spec: TeamSpec) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """Observation and action space of a whole team."""
    shape = (spec.num_agents, spec.observation_size)
    return (
        gym.spaces.Box(*spec.observation_bounds, shape, np.float32),
        gym.vector.utils.batch_space(spec.actions.space(), spec.num_agents),
    )
