"""What algorithms share: sample a round, learn, count it, write it down."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from marlcomm import checkpoint, log
from marlcomm.policies.metering import TalkCounts
from marlcomm.policies.team import what_fits
from marlcomm.registry import ConfigError
from marlcomm.rllib.ahead import AHEAD, ASYNCHRONOUS, RoundAhead
from marlcomm.rllib.compat import (
    COMPONENT_LEARNER,
    COMPONENT_RL_MODULE,
    DEFAULT_MODULE_ID,
    ENV_RUNNER_RESULTS,
    EPISODE_RETURN_MEAN,
    LEARNER_RESULTS,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    Algorithm,
    ray,
    trial_folder,
)
from marlcomm.rllib.learner import CORE_SECONDS, FETCH_SECONDS, SKIPPED, Lesson, learn
from marlcomm.rllib.parcels import Columns, Shipment
from marlcomm.rllib.recovery import RemoteRunners
from marlcomm.rllib.runner import LEARNED, Sample, TeamEnvRunner
from marlcomm.rllib.skipped import keep_skipped
from marlcomm.rllib.stopwatch import Stopwatch

if TYPE_CHECKING:
    from marlcomm.rllib.config import TeamConfig
    from marlcomm.rllib.module import TeamRLModule


class TeamAlgorithm(Algorithm):
    """Rounds of whole episodes, the same draws whatever the number of runners and learners.

    A subclass learns from them, and holds what else a checkpoint needs.

    Attributes:
        round, episodes, env_steps: how many rounds are over, episodes of each world, and env steps of all worlds.
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
        self.episodes = 0
        self.env_steps = 0
        self.seconds = self.core_seconds = 0.0
        self.last_checkpoint: Path | None = None
        self._ahead: RoundAhead | None = None
        self._fetch_seconds, self._bytes_sent = 0.0, 0
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
        self.episodes += samples[0].episodes
        self.env_steps += env_steps
        self._play_ahead()
        watch.lap("ahead")
        learned = self._learn(samples)
        watch.lap("update")
        self.round += 1
        if self._ahead is None:
            self._send_weights()
        watch.lap("sync")
        self.seconds += watch.total
        self.core_seconds += watch.core_seconds + sum(sample.worker_seconds for sample in samples)
        if self.config.num_env_runners:
            self.core_seconds += sum(sample.core_seconds for sample in samples)
        self._figures = {
            **_episode_figures(samples),
            **{f"bandwidth/{name}": value for name, value in self._bits(samples).items()},
            **learned,
            "policy/lag": self.round - 1 - min(sample.learned for sample in samples),
            **self._time_shares(samples, watch),
            "time/env_steps_per_second": env_steps / watch.total,
            "time/training_seconds": self.seconds,
            "time/core_seconds": self.core_seconds,
            "transfer/bytes_per_env_step": self._bytes_moved(samples) / env_steps,
            "runners/restarts": self._runners.restarts,
            "runners/recovery_seconds": self._runners.recovery_seconds,
        }
        self._report(env_steps)

    def _learn(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Learn from the rows of a round; returns means of what learners logged. A subclass knows how."""
        raise NotImplementedError

    def _teach(self, lesson: Lesson) -> list[dict[str, Any]]:
        """Have all learners learn from a lesson; returns what each of them logged."""
        answers = list(self.learner_group.foreach_learner(learn, lesson=lesson))
        for answer in answers:
            if not answer.ok:
                raise answer.get()
        results = [answer.get() for answer in answers]
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        figures = [result[DEFAULT_MODULE_ID] for result in results]
        self._fetch_seconds += max(float(one[FETCH_SECONDS].peek()) for one in figures)
        if self.config.num_learners:
            self.core_seconds += sum(float(one[CORE_SECONDS].peek()) for one in figures)
        if any(float(one[SKIPPED].peek()) for one in figures):
            keep_skipped(self)
        return figures

    def _within_reach(self, columns: Columns | Shipment) -> Columns | Shipment:
        """Columns where all learners can read them: those of this process go to Ray's object store, once."""
        if isinstance(columns, Shipment) or not self.config.num_learners:
            return columns
        shipment = Shipment.of(columns)
        self._bytes_sent += shipment.bytes
        return shipment

    def _how_to_play(self) -> dict[str, Any]:
        """What runners are told of the next round that they play."""
        return {"episode": self.episodes}

    def _send_weights(self, state: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give the runners the learners' weights, or others; returns what they were given."""
        if state is None:
            state = self._learned_state()
        group = self.env_runner_group
        if not group.num_remote_env_runners():
            self.env_runner.set_state(state)
            return state
        state = state | {COMPONENT_RL_MODULE: ray.put(state[COMPONENT_RL_MODULE])}
        group.foreach_env_runner(
            "set_state",
            kwargs={"state": state},
            local_env_runner=False,
            timeout_seconds=self.config.sample_timeout_s,
        )
        return state

    def _learned_state(self) -> dict[str, Any]:
        """The learners' weights, as far as runners have them, and how many rounds they have learned from."""
        weights = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        state = self.learner_group.get_state(components=weights, inference_only=True)[COMPONENT_LEARNER]
        return {COMPONENT_RL_MODULE: state[COMPONENT_RL_MODULE], LEARNED: self.round}

    def _play_ahead(self, how: dict[str, Any] | None = None, state: dict[str, Any] | None = None) -> None:
        """In asynchronous sampling, have runners begin the next round with the weights of now, or as they are told."""
        self._ahead = None
        if self.config.sampling == ASYNCHRONOUS:
            state = self._send_weights(state)
            how = self._how_to_play() if how is None else how
            self._ahead = RoundAhead.begin(self.env_runner_group, how, state)

    def _forget_ahead(self) -> None:
        """Wait for the round that is being played, if there is one, and drop it."""
        if self._ahead is not None:
            self._ahead.answers(self.env_runner_group, self.config.sample_timeout_s)
            self._ahead = None

    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        return []  # a round brings back whom it needs

    def _sample(self) -> list[Sample]:
        """One round of every runner."""
        if not self.config.num_env_runners:
            return [self.env_runner.sample(**self._how_to_play())]
        ahead, seconds = self._ahead, self.config.sample_timeout_s
        if ahead is None:
            return self._runners.play(self._how_to_play(), self._learned_state, learned=self.round)
        played = ahead.answers(self.env_runner_group, seconds)
        return self._runners.play(ahead.how, lambda: ahead.state, ahead.state[LEARNED], played)

    def _bits(self, samples: list[Sample]) -> dict[str, float]:
        counts = sum((sample.counts for sample in samples), TalkCounts())
        return cast(TeamEnvRunner, self.env_runner).meter.report(counts)

    def _time_shares(self, samples: Sequence[Sample], watch: Stopwatch) -> dict[str, float]:
        """How the wall time of a round is spent; what nobody spent on worlds, policy and updates is transfer.

        What runners play while learners learn is counted on both sides.
        """
        playing = {part: float(np.mean([sample.seconds[part] for sample in samples])) for part in samples[0].seconds}
        fetching = min(self._fetch_seconds, watch.laps["update"])
        waiting = max(watch.laps["sample"] - sum(playing.values()), 0.0)
        seconds = playing | {
            "update": watch.laps["update"] - fetching,
            "transfer": waiting + watch.laps["ahead"] + fetching + watch.laps["sync"],
        }
        self._fetch_seconds = 0.0
        return {f"time/{part}": value / watch.total for part, value in seconds.items()}

    def _bytes_moved(self, samples: Sequence[Sample]) -> int:
        """What columns of the round took on their way between processes."""
        shipped = sum(sample.batch.bytes for sample in samples if isinstance(sample.batch, Shipment))
        moved, self._bytes_sent = shipped + self._bytes_sent, 0
        return moved

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
        figures = self._informed_runner().evaluate(self.config.evaluation_duration, stream="validation", greedy=greedy)
        self._figures |= {f"validation/{name}": value for name, value in figures.items()}
        return {ENV_RUNNER_RESULTS: figures | {EPISODE_RETURN_MEAN: figures["return"]}}

    def get_module(self, module_id: str = DEFAULT_MODULE_ID) -> Any:
        """The team as it has learned so far."""
        self._informed_runner()
        return super().get_module(module_id)

    def _informed_runner(self) -> TeamEnvRunner:
        """The local runner, with the weights of now: where there are remote ones, rounds leave it out."""
        runner = cast(TeamEnvRunner, self.env_runner)
        if self.env_runner_group.num_remote_env_runners():
            runner.set_state(self._learned_state())
        return runner

    def log_result(self, result: dict[str, Any]) -> None:
        self._log.write(self._figures, self.env_steps, self.round)
        super().log_result(result)

    @property
    def figures(self) -> dict[str, float]:
        """What the last round logged, by the tags of the glossary."""
        return self._figures

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(components, not_components=not_components, **kwargs)
        return cast(dict[str, Any], state) | {"team": self.counters()} | self._ahead_part()

    def set_state(self, state: dict[str, Any]) -> None:
        self._forget_ahead()
        super().set_state(state)
        self.last_checkpoint = None  # it may be of another run
        counters = state.get("team", {})
        if "round" in counters:  # checkpoints without the other: every round had one episode of each world
            self.episodes = counters["round"]
        for name, value in counters.items():
            setattr(self, name, value)
        self._send_weights()
        if AHEAD in state:
            self._play_again(state[AHEAD])
        self._log.go_back(self.env_steps)

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        super().restore_from_path(path, *args, **kwargs)
        self._send_weights()

    def counters(self) -> dict[str, Any]:
        """All state of the training outside weights and optimisers."""
        return {
            "round": self.round,
            "episodes": self.episodes,
            "env_steps": self.env_steps,
            "seconds": self.seconds,
            "core_seconds": self.core_seconds,
        }

    def parts(self, last: Path | None) -> dict[str, Any]:
        """What else a checkpoint holds, by name; `last` is the one before, which may hold some of it already."""
        return self._ahead_part()

    def _ahead_part(self) -> dict[str, Any]:
        return {} if self._ahead is None else {AHEAD: self._ahead.stored()}

    def load_parts(self, stored: checkpoint.Checkpoint) -> None:
        """Take back what else is in a checkpoint."""
        if AHEAD in stored.parts:
            self._play_again(stored.read(AHEAD))

    def _play_again(self, stored: dict[str, Any]) -> None:
        """Have the round that was being played when a checkpoint was written played once more."""
        stored = dict(stored)
        how = dict(stored.pop("how"))
        if "round" in how:  # its one episode, as checkpoints called it once
            how["episode"] = how.pop("round")
        self._play_ahead(how, stored)

    @property
    def remarks(self) -> list[str]:
        """What a user should know before training begins, in sentences."""
        remark, parent = self.config.channel_settings().remark, self.config.init_from
        found = [] if remark is None else [remark]
        if parent is not None:
            policy = cast("TeamRLModule", self.env_runner.module).policy
            fresh = sorted(
                policy.state_dict().keys()
                - what_fits(policy, self.config.team_names().start(checkpoint.read(Path(parent))))
            )
            found.append(f"weights of {parent}; new are {', '.join(fresh) or 'none'}")
        return found

    @property
    def bytes_to_come(self) -> int:
        """Memory that this process will take in later rounds, and has not taken yet."""
        return 0

    def cleanup(self) -> None:
        try:
            self._log.close()
        finally:
            super().cleanup()


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
            f"resources.num_gpus_per_learner: {max(config.num_learners, 1)} learners need {gpus:g} GPUs, "
            f"Ray has {there.get('GPU', 0):g}"
        )


def _local_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _episode_figures(samples: list[Sample]) -> dict[str, float]:
    """Means over the episodes of the round; every runner played equally many."""
    return {f"train/{name}": float(np.mean([s.means[name] for s in samples])) for name in samples[0].means}
