"""The algorithm: sample a round, learn from it, count it, write it down."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from marlcomm import log
from marlcomm.objectives.base import Batch
from marlcomm.objectives.entropy import HIGHEST_ENTROPY, LOWEST_ENTROPY, EntropyWeight
from marlcomm.policies.metering import TalkCounts
from marlcomm.registry import ConfigError
from marlcomm.rllib.compat import (
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
from marlcomm.rllib.config import TeamConfig
from marlcomm.rllib.learner import FIRST_EPOCH, LAST_EPOCH, VALUE_TARGETS, TrainingError
from marlcomm.rllib.rows import epoch_rows, join, normalize_advantages, value_moments
from marlcomm.rllib.runner import Sample, TeamEnvRunner
from marlcomm.rllib.stopwatch import Stopwatch


class TeamAlgorithm(Algorithm):
    """Rounds of whole episodes, the same draws whatever the number of runners and learners."""

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
        self.entropy_target = self.config.entropy_target()
        self.entropy_weight = None if self.entropy_target is None else self.entropy_target.start()
        self.seconds = 0.0
        _refuse_too_few_resources(self.config)
        super().setup(config)
        folder = self.config.log_dir
        if folder is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.logdir)  # RLlib made one of its own
        self._log = log.MetricLog(Path(folder or trial_folder(self) or self.logdir))
        self._figures: dict[str, float] = {}

    def training_step(self) -> None:
        watch = Stopwatch()
        samples = self._sample()
        watch.lap("sample")
        env_steps = sum(sample.env_steps for sample in samples)
        self.env_steps += env_steps
        batch = self._rows(samples)
        watch.lap("join")
        learned = self._learn(batch)
        watch.lap("update")
        self._send_weights()
        watch.lap("sync")
        self.round += 1
        self.seconds += watch.total
        self._figures = {
            **_episode_figures(samples),
            **{f"bandwidth/{name}": value for name, value in self._bits(samples).items()},
            **learned,
            **_time_shares(samples, watch),
            "time/env_steps_per_second": env_steps / watch.total,
            "time/training_seconds": self.seconds,
        }
        self._report(env_steps)

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
        if env_runner_group.num_healthy_remote_workers() < env_runner_group.num_remote_env_runners():
            _copy_weights(self, cast(TeamEnvRunner, self.env_runner))  # from which RLlib sets up whoever comes back
        return cast(list[int], super().restore_env_runners(env_runner_group))

    def _rows(self, samples: list[Sample]) -> Batch:
        """The rows of all runners, ready to learn from."""
        batch = join([sample.batch for sample in samples])
        if self.config.objective().normalizes_advantages:
            normalize_advantages(batch, np.sum([sample.moments for sample in samples], axis=0))
        return batch

    def _sample(self) -> list[Sample]:
        """One round of every runner; a runner that fails fails the round."""
        group = self.env_runner_group
        if not group.num_remote_env_runners():
            return [self.env_runner.sample(round=self.round)]
        results = group.foreach_env_runner(
            "try_sample",
            kwargs={"round": self.round},
            local_env_runner=False,
            timeout_seconds=self.config.sample_timeout_s,
        )
        for result in results:
            if isinstance(result, str):
                raise TrainingError(f"an env runner failed in round {self.round}:\n{result}")
        if len(results) != self.config.num_env_runners:
            raise TrainingError(
                f"only {len(results)} of {self.config.num_env_runners} env runners returned round {self.round} within "
                f"{self.config.sample_timeout_s:g} s; the others died or hang"
            )
        samples = cast(list[Sample], results)
        return sorted(samples, key=lambda sample: int(sample.batch["world"][0]))

    def _learn(self, batch: Batch) -> dict[str, float]:
        """All epochs over a round; returns the mean of each learner figure over the minibatches."""
        config = self.config
        learners = max(config.num_learners, 1)
        if self.entropy_weight is not None:
            batch["entropy_weight"] = torch.full((config.num_worlds,), self.entropy_weight.present)
        once = {} if config.value_settings().normalization == "none" else {VALUE_TARGETS: value_moments(batch)}
        size = config.num_worlds // (learners * config.num_minibatches)
        sums: dict[str, float] = {}
        for epoch in range(config.num_epochs):
            rows = epoch_rows(batch, config.seed, self.round, epoch, config.num_minibatches, learners)
            columns = {name: values.numpy() for name, values in rows.items()} if config.num_learners else rows
            results = self.learner_group.update(
                batch=MultiAgentBatch({DEFAULT_MODULE_ID: SampleBatch(columns)}, env_steps=config.num_worlds),
                timesteps={
                    NUM_ENV_STEPS_SAMPLED_LIFETIME: self.env_steps,
                    FIRST_EPOCH: epoch == 0,
                    LAST_EPOCH: epoch == config.num_epochs - 1,
                    **(once if epoch == 0 else {}),
                },
                num_epochs=1,
                minibatch_size=size,
            )
            for result in results:
                _add_sums(sums, result[DEFAULT_MODULE_ID], compared=epoch == 0)
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        figures = _learner_figures(sums, config.num_epochs * config.num_minibatches, learners)
        return figures | self._follow_entropy(figures)

    def _follow_entropy(self, figures: dict[str, float]) -> dict[str, float]:
        """Move the weight of the entropy by what the round's was; returns the weight that it had, and the share."""
        if self.entropy_target is None or self.entropy_weight is None:
            return {}
        lowest, highest = figures.pop(LOWEST_ENTROPY), figures.pop(HIGHEST_ENTROPY)
        used = {"policy/entropy_weight": self.entropy_weight.present}
        if highest <= lowest:  # nobody had a choice
            return used
        share = (figures["policy/entropy"] - lowest) / (highest - lowest)
        self.entropy_weight = self.entropy_target.follow(self.entropy_weight, share, self.env_steps)
        return used | {"policy/entropy_share": share}

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
        for name, value in state.get("team", {}).items():
            setattr(self, name, EntropyWeight(**value) if name == "entropy_weight" else value)
        self._send_weights()
        self._log.go_back(self.env_steps)

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        super().restore_from_path(path, *args, **kwargs)
        self._send_weights()

    def counters(self) -> dict[str, Any]:
        """All state of the training outside weights and optimisers."""
        counters: dict[str, Any] = {"round": self.round, "env_steps": self.env_steps, "seconds": self.seconds}
        return counters if self.entropy_weight is None else counters | {"entropy_weight": vars(self.entropy_weight)}

    def cleanup(self) -> None:
        self._log.close()
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


def _add_sums(sums: dict[str, float], result: dict[str, Any], compared: bool) -> None:
    """Add what one learner logged in one epoch; the replay is compared with the rollout in the first one only."""
    for name, stats in result.items():
        if "/" not in name or (name.startswith("replay/") and not compared):
            continue
        value = float(stats.peek())
        sums[name] = max(sums.get(name, 0.0), value) if name == "replay/ratio_error" else sums.get(name, 0.0) + value


def _learner_figures(sums: dict[str, float], updates: int, learners: int) -> dict[str, float]:
    figures = {name: value / updates for name, value in sums.items() if not name.startswith(("replay/", "update/"))}
    figures["replay/flipped_symbols"] = sums["replay/flipped"] / max(sums["replay/symbols"], 1)
    figures["replay/ratio_error"] = sums["replay/ratio_error"]
    figures["update/skipped"] = sums["update/skipped"] / learners  # all learners skip the same updates
    return figures
