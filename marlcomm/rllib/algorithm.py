"""What algorithms share: sample a round, learn, count it, write it down."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from marlcomm import log
from marlcomm.objectives.base import Batch
from marlcomm.policies.metering import TalkCounts
from marlcomm.registry import ConfigError
from marlcomm.rllib.compat import (
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    Algorithm,
    MultiAgentBatch,
    SampleBatch,
    ray,
    trial_folder,
)
from marlcomm.rllib.learner import CORE_SECONDS, SKIPPED
from marlcomm.rllib.recovery import RemoteRunners
from marlcomm.rllib.rows import join
from marlcomm.rllib.runner import Sample, TeamEnvRunner
from marlcomm.rllib.skipped import keep_skipped
from marlcomm.rllib.stopwatch import Stopwatch

if TYPE_CHECKING:
    from marlcomm.rllib.config import TeamConfig


class TeamAlgorithm(Algorithm):
    """Rounds of whole episodes, the same draws whatever the number of runners and learners.

    A subclass learns from them, and holds what else a checkpoint needs.
    """

    config: TeamConfig

    @classmethod
    def default_resource_request(cls, config: Any) -> Any:
        wanted = cls.get_default_config().update_from_dict(config)
        _refuse_too_few_resources(wanted, main=wanted.num_cpus_for_main_process)
        return super().default_resource_request(config)

    @classmethod
    def _should_create_evaluation_env_runners(cls, eval_config: Any) -> bool:
        return False  # the local runner evaluates

    def setup(self, config: Any) -> None:
        self.round = 0
        self.env_steps = 0
        self.seconds = self.core_seconds = 0.0
        self.last_checkpoint: Path | None = None
        _refuse_too_few_resources(self.config)
        super().setup(config)
        folder = self.config.log_dir
        if folder is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.logdir)  # RLlib made one of its own
        self.folder = Path(folder or trial_folder(self) or self.logdir)
        self._log = log.MetricLog(self.folder)
        self._runners = RemoteRunners(self)
        self._figures: dict[str, float] = {}

    def training_step(self) -> None:
        watch = Stopwatch()
        samples = self._sample()
        watch.lap("sample")
        env_steps = sum(sample.env_steps for sample in samples)
        self.env_steps += env_steps
        batch = join([sample.batch for sample in samples])
        watch.lap("join")
        learned = self._learn(batch)
        watch.lap("update")
        self._send_weights()
        watch.lap("sync")
        self.round += 1
        self.seconds += watch.total
        self.core_seconds += watch.core_seconds
        if self.config.num_env_runners:
            self.core_seconds += sum(sample.core_seconds for sample in samples)
        self._figures = {
            **_episode_figures(samples),
            **{f"bandwidth/{name}": value for name, value in self._bits(samples).items()},
            **learned,
            **_time_shares(samples, watch),
            "time/env_steps_per_second": env_steps / watch.total,
            "time/training_seconds": self.seconds,
            "time/core_seconds": self.core_seconds,
            "runners/restarts": self._runners.restarts,
            "runners/recovery_seconds": self._runners.recovery_seconds,
        }
        self._report(env_steps)

    def _learn(self, batch: Batch) -> dict[str, float]:
        """Learn from the rows of a round; returns means of what learners logged. A subclass knows how."""
        raise NotImplementedError

    def _update(self, rows: Batch, minibatch_size: int | None = None, **timesteps: Any) -> list[dict[str, Any]]:
        """One call of the learners; returns what each of them logged."""
        columns = {name: values.numpy() for name, values in rows.items()} if self.config.num_learners else rows
        results = self.learner_group.update(
            batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=self.config.num_worlds),
            timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps, **timesteps},
            num_epochs=1,
            minibatch_size=minibatch_size,
        )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        figures = [result[DEFAULT_MODULE_ID] for result in results]
        if self.config.num_learners:
            self.core_seconds += sum(float(one[CORE_SECONDS].peek()) for one in figures)
        if any(float(one[SKIPPED].peek()) for one in figures):
            keep_skipped(self)
        return figures

    @property
    def _how_to_play(self) -> dict[str, Any]:
        """What runners are told of the next round."""
        return {"round": self.round}

    def _send_weights(self) -> None:
        """Give the runners the learners' weights.

        RLlib drops this call where an earlier one to the same runner is not answered yet; the timeout awaits it.
        """
        self.env_runner_group.sync_weights(
            from_worker_or_learner_group=self.learner_group,
            inference_only=True,
            timeout_seconds=self.config.sample_timeout_s,
        )

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        return []  # a round brings back whom it needs

    def _sample(self) -> list[Sample]:
        """One round of every runner."""
        if not self.config.num_env_runners:
            return [self.env_runner.sample(**self._how_to_play)]
        return self._runners.play(self._how_to_play, lambda: {COMPONENT_RL_MODULE: self.learner_group.get_weights()})

    def _bits(self, samples: list[Sample]) -> dict[str, float]:
        counts = sum((sample.counts for sample in samples), TalkCounts())
        return cast(TeamEnvRunner, self.env_runner).meter.report(counts)

    def _report(self, env_steps: int) -> None:
        """Hand the figures to RLlib: its own names for what it knows, ours under "team"."""
        runners: dict[str, tuple[float, str]] = {
            NUM_ENV_STEPS_SAMPLED: (env_steps, "sum"),
            NUM_ENV_STEPS_SAMPLED_LIFETIME: (env_steps, "lifetime_sum"),
        }
        for name, (value, reduce) in runners.items():
            self.metrics.log_value((ENV_RUNNER_RESULTS, name), value, reduce=reduce)
        self.metrics.log_value((ENV_RUNNER_RESULTS, EPISODE_RETURN_MEAN), self._figures["train/return"], window=1)
        for name, value in self._figures.items():
            self.metrics.log_value(("team", name), value, window=1)

    def evaluate(self, parallel_train_future: Any = None, *, greedy: bool = False) -> dict[str, Any]:
        """A short evaluation in this process: ``evaluation_duration`` episodes of the validation stream."""
        runner = cast(TeamEnvRunner, self.env_runner)
        _copy_weights(self, runner)
        figures = runner.evaluate(self.config.evaluation_duration, stream="validation", greedy=greedy)
        self._figures |= {f"validation/{name}": value for name, value in figures.items()}
        return {ENV_RUNNER_RESULTS: figures | {EPISODE_RETURN_MEAN: figures["return"]}}

    def log_result(self, result: dict[str, Any]) -> None:
        self._log.write(self._figures, self.env_steps, self.round)
        super().log_result(result)

    @property
    def figures(self) -> dict[str, float]:
        """What the last round logged, by the tags of the glossary."""
        return self._figures

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        return cast(dict[str, Any], state) | {"team": self.counters()}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.last_checkpoint = None  # it may be of another run
        for name, value in state.get("team", {}).items():
            setattr(self, name, value)
        self._send_weights()
        self._log.go_back(self.env_steps)

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        super().restore_from_path(path, *args, **kwargs)
        self._send_weights()

    def counters(self) -> dict[str, Any]:
        """All state of the training outside weights and optimisers."""
        return {
            "round": self.round,
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "core_seconds": self.core_seconds,
        }

    def parts(self, last: Path | None) -> dict[str, Any]:
        """What else a checkpoint holds, by name; `last` is the one before, which may hold some of it already."""
        return {}

    def load_parts(self, folder: Path) -> None:
        """Take back what else is in a checkpoint."""

    @property
    def remarks(self) -> list[str]:
        """What a user should know before training begins, in sentences."""
        return []

    def cleanup(self) -> None:
        try:
            self._log.close()
        finally:
            super().cleanup()


def _copy_weights(algorithm: TeamAlgorithm, runner: TeamEnvRunner) -> None:
    """Give the local runner the learner's weights (RLlib leaves it out where remote runners play)."""
    if algorithm.env_runner_group.num_remote_env_runners():
        state = algorithm.learner_group.get_weights()
        runner.module.set_state(state[DEFAULT_MODULE_ID])


def _refuse_too_few_resources(config: TeamConfig, main: float = 0) -> None:
    """Raise `ConfigError` where Ray has less than the workers need; without it a run would wait for ever."""
    there = ray.cluster_resources() if ray.is_initialized() else {"CPU": os.cpu_count() or 1, "GPU": _local_gpus()}
    per_learner = 1 if config.num_cpus_per_learner == "auto" else config.num_cpus_per_learner
    runners = config.num_env_runners * config.num_cpus_per_env_runner
    learners = config.num_learners * (0 if config.num_gpus_per_learner else per_learner)
    if main + runners + learners > there.get("CPU", 0):
        trial = f"the trial itself ({main:g}), " if main else ""
        raise ConfigError(
            f"resources: {trial}{config.num_env_runners} env runners ({runners:g} CPUs) and {config.num_learners} "
            f"learners ({learners:g} CPUs) need {main + runners + learners:g} CPUs, Ray has {there.get('CPU', 0):g}"
        )
    gpus = max(config.num_learners, 1) * config.num_gpus_per_learner
    if gpus > there.get("GPU", 0):
        raise ConfigError(
            f"num_gpus_per_learner: {max(config.num_learners, 1)} learners need {gpus:g} GPUs, "
            f"Ray has {there.get('GPU', 0):g}"
        )


def _local_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _time_shares(samples: list[Sample], watch: Stopwatch) -> dict[str, float]:
    """How the wall time of a round is spent; what runners did not spend on worlds and policy is transfer."""
    playing = {part: float(np.mean([sample.seconds[part] for sample in samples])) for part in samples[0].seconds}
    between = watch.laps["sample"] - sum(playing.values()) + watch.laps["join"] + watch.laps["sync"]
    seconds = playing | {"update": watch.laps["update"], "transfer": max(between, 0.0)}
    return {f"time/{part}": value / watch.total for part, value in seconds.items()}


def _episode_figures(samples: list[Sample]) -> dict[str, float]:
    """Means over the episodes of the round; every runner played equally many."""
    return {f"train/{name}": float(np.mean([s.means[name] for s in samples])) for name in samples[0].means}
