"""The environment runner: worlds in lock-step, whole episodes of each a round, one batch [B, T, N, ...] back."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from marlcomm.config import import_plugins
from marlcomm.envs.faults import WorldError, answered_within
from marlcomm.policies.evaluation import Episodes, evaluate
from marlcomm.policies.metering import TalkCounts, TalkMeter
from marlcomm.policies.rollout import Player
from marlcomm.rllib.compat import (
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
    Checkpointable,
    EnvRunner,
    ray,
    set_log_level,
)
from marlcomm.rllib.module import TeamRLModule, spaces
from marlcomm.rllib.parcels import Columns, Shipment
from marlcomm.rllib.rows import ADVANTAGES, Moments, round_moments
from marlcomm.rllib.stopwatch import Stopwatch

LEARNED = "learned"  # rounds that weights have learned from


@dataclass(frozen=True)
class Sample:
    """What a runner sends back after a round: rows, and sums that add up over runners.

    Attributes:
        batch: name -> [B, T, N, ...] or [B], as numpy arrays; of a remote runner, where they lie.
        episodes: of each world.
        moments: of advantages and value targets, where there are any.
        learned: rounds that the weights had learned from.
        env_steps: of all worlds.
        counts: of what was said.
        means: of the episodes' statistics.
        seconds: wall time by part.
        core_seconds: processor time of the runner's process.
        worker_seconds: and of others that step its worlds.
    """

    batch: Columns | Shipment
    episodes: int
    moments: dict[str, Moments]
    learned: int
    env_steps: int
    counts: TalkCounts
    means: dict[str, float]
    seconds: dict[str, float]
    core_seconds: float
    worker_seconds: float


class TeamEnvRunner(EnvRunner, Checkpointable):
    """Runner r of R owns worlds r * B to (r + 1) * B - 1 and keeps no state but weights.

    Every draw is keyed by (seed, world, episode), so a runner that restarts, or that runs elsewhere, samples the same.
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        set_log_level(config.log_level)
        super().__init__(config=config, **kwargs)
        import_plugins(self.config.imports)
        self._learned = 0
        self.make_env()
        self.make_module()
        self._has_weights = False

    def make_env(self) -> None:
        names = self.config.team_names()
        self.env, self.evaluation_env = names.make_env(), names.make_env(final=True)

    def make_module(self) -> None:
        spec = self.config.get_rl_module_spec(spaces=self.get_spaces(), inference_only=True)
        self.module = cast(TeamRLModule, spec.build())
        self.objective = self.config.objective()
        self.meter = TalkMeter(self.module.policy)

    def get_spaces(self) -> dict[str, Any]:
        pair = spaces(self.env.spec)
        return {"__env__": pair, "__env_single__": pair, DEFAULT_MODULE_ID: pair}

    def sample(self, *, episode: int, episodes: int = 1, exploration: float = 0.0, **kwargs: Any) -> Sample:
        """So many episodes of each of this runner's worlds, from the `episode`-th on.

        Rows are ordered by worlds, and by episodes within. Exploration is as `Player` has it.
        """
        with answered_within(self.config.sample_timeout_s):
            return self._sample(torch.arange(episode, episode + episodes), exploration)

    def _sample(self, episodes: Tensor, exploration: float) -> Sample:
        watch, worker_seconds = Stopwatch(), self.env.worker_seconds
        worlds = self._first_world() + torch.arange(self.config.num_envs_per_env_runner)
        rows = worlds.repeat_interleave(len(episodes)), episodes.repeat(len(worlds))
        self.module.eval()
        player = Player(self.env, self.module.policy, self.config.seed, exploration=exploration)
        rollout = self.module.valued(player.play(*rows))
        batch = self.objective.columns(rollout) | self.module.columns(rollout)
        statistics = Episodes()
        statistics.add(rollout.rewards, rollout.lengths, rollout.info)
        return Sample(
            batch={name: values.numpy() for name, values in batch.items()},
            episodes=len(episodes),
            moments=round_moments(batch, self.objective.normalized_over(batch)) if ADVANTAGES in batch else {},
            learned=self._learned,
            env_steps=rollout.env_steps,
            counts=self.meter.count(rollout),
            means=statistics.means(),
            seconds=rollout.seconds,
            core_seconds=watch.core_seconds,
            worker_seconds=self.env.worker_seconds - worker_seconds,
        )

    def try_sample(self, **how: Any) -> Sample | str | None:
        """A sample whose rows stay in Ray's object store, where learners find them.

        Or the traceback of what went wrong: RLlib would end this process and only log the reason. None: it was never
        given weights, so Ray has started it anew after it was given them.
        """
        if not self._has_weights:
            return None
        try:
            sample = self.sample(**how)
            return replace(sample, batch=Shipment.of(cast(Columns, sample.batch)))
        except WorldError as error:
            return str(error)
        except Exception:
            return traceback.format_exc()

    def has_weights(self) -> bool:
        """Whether it was given any since Ray started it, first or anew."""
        return self._has_weights

    def evaluate(self, episodes: int, *, stream: str, greedy: bool = False) -> dict[str, float]:
        """Figures of an evaluation with the present weights."""
        self.module.eval()
        return evaluate(
            self.evaluation_env, self.module.policy, self.config.seed, episodes, stream=stream, greedy=greedy
        )

    def _first_world(self) -> int:
        # The local runner has index 0 and plays alone; remote ones count from 1.
        return max((self.worker_index or 0) - 1, 0) * cast(int, self.config.num_envs_per_env_runner)

    def stop(self) -> None:
        for env in (self.env, self.evaluation_env):
            env.close()

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        if not self._check_component(COMPONENT_RL_MODULE, components, not_components):
            return {}
        return {COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: self.module.get_state()}, LEARNED: self._learned}

    def set_state(self, state: dict[str, Any]) -> None:
        modules = state.get(COMPONENT_RL_MODULE)
        if isinstance(modules, ray.ObjectRef):
            modules = ray.get(modules)
        if modules is not None:
            self.module.set_state(modules[DEFAULT_MODULE_ID])
            self._has_weights = True
        self._learned = state.get(LEARNED, self._learned)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        return [(COMPONENT_RL_MODULE, self.module)]

    def get_metrics(self) -> Any:
        return self.metrics.reduce()

    def assert_healthy(self) -> None:
        assert self.env is not None
        assert self.module is not None
