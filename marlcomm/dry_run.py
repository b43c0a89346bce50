"""A run in miniature: two rounds that leave nothing behind, to see that all fits together and what it will cost."""

from __future__ import annotations

import math
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from marlcomm.config import Experiment, RunSettings
from marlcomm.policies.rollout import Player
from marlcomm.rllib.settings import Training
from marlcomm.runs import Run
from marlcomm.training import built

if TYPE_CHECKING:
    from marlcomm.rllib.algorithm import TeamAlgorithm
    from marlcomm.rllib.runner import TeamEnvRunner

_POINTS = 1000  # of a run, at which the sizes of its rounds are looked at
_ROUNDS = 2  # the first is slower than those that follow


@dataclass(frozen=True)
class DryRun:
    """What was seen of a run, and what the whole of it is expected to take.

    Attributes:
        shapes: of the rows that are learned from in a round, name -> [B, T, N, ...].
        parameters: how many trainable numbers each part has.
        figures: what the last round logged.
        env_steps: of a round, of the largest where they grow.
        shrunk: env steps of the run -> by what the round there is smaller than that.
        round_seconds, evaluation_seconds: of a round, and of a short evaluation (zero where there is none).
        peak_bytes: memory of processes at their largest, by kind; of a whole run, whose replay is full.
        remarks: what the algorithm has to say of itself, in sentences.
    """

    shapes: dict[str, tuple[int, ...]]
    parameters: dict[str, int]
    figures: dict[str, float]
    env_steps: float
    shrunk: Callable[[float], float]
    round_seconds: float
    evaluation_seconds: float
    peak_bytes: dict[str, int]
    remarks: list[str]

    def rounds(self, run: RunSettings) -> int:
        """How many rounds a whole run is expected to have."""
        env_steps = self._largest_rounds(run) * self.env_steps
        shrunk = [self.shrunk(point) for point in np.linspace(0, env_steps, _POINTS)]
        return math.ceil(round(self._largest_rounds(run) * float(np.mean(shrunk)), 6))

    def seconds(self, run: RunSettings) -> float:
        """How long a whole run is expected to take, short evaluations included."""
        evaluations = 0 if run.evaluate_every is None else self.rounds(run) // run.evaluate_every
        return math.ceil(self._largest_rounds(run)) * self.round_seconds + evaluations * self.evaluation_seconds

    def _largest_rounds(self, run: RunSettings) -> float:
        """How many rounds the run would have if all were as large as the largest; a smaller one is as much quicker."""
        by_steps = math.inf if run.env_steps is None else run.env_steps / self.env_steps
        by_time = math.inf if run.minutes is None else 60 * run.minutes / self.round_seconds
        return min(by_steps, by_time)


def dry_run(settings: Experiment) -> DryRun:
    """Build everything, play and learn two rounds, evaluate once if the run will; no run folder is left."""
    run = settings.run
    own = cast(Training, settings.algorithm.settings)
    dearest = own.at_its_dearest()
    short = replace(
        settings,
        run=run.model_copy(update={"evaluate_every": None}),
        algorithm=replace(settings.algorithm, settings=dearest),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        built(Run.create(short, Path(folder), []), short, resume=False) as algorithm,
    ):
        for _ in range(_ROUNDS):
            clock = perf_counter()
            algorithm.train()
            round_seconds = perf_counter() - clock
        figures = dict(algorithm.figures)
        clock = perf_counter()
        if run.evaluate_every is not None:
            algorithm.evaluate()
        return DryRun(
            shapes=_shapes(algorithm, run.worlds * algorithm.episodes // _ROUNDS),
            parameters=_parameters(algorithm),
            figures=figures,
            env_steps=algorithm.env_steps / _ROUNDS,
            shrunk=lambda env_steps: dearest.episodes_at(env_steps) / own.episodes_at(env_steps),
            round_seconds=round_seconds,
            evaluation_seconds=0.0 if run.evaluate_every is None else perf_counter() - clock,
            peak_bytes=_peaks(algorithm),
            remarks=algorithm.remarks,
        )


def _shapes(algorithm: TeamAlgorithm, episodes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the rows of so many episodes, from those of one."""
    runner = cast("TeamEnvRunner", algorithm.env_runner)
    player = Player(runner.env, runner.module.policy, algorithm.config.seed)
    one = player.play(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    columns = runner.objective.columns(one) | runner.module.columns(one)
    return {name: (episodes, *values.shape[1:]) for name, values in columns.items()}


def _parameters(algorithm: TeamAlgorithm) -> dict[str, int]:
    """Trainable numbers by part: of the policy its parts (the channel is one), and what else the module has."""
    return cast(dict[str, int], next(iter(algorithm.learner_group.foreach_learner(_parameters_of))).get())


def _parameters_of(learner: Any) -> dict[str, int]:
    counts = Counter({"channel": 0})  # many have none
    (module,) = learner.module.values()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            first, second, *_ = name.split(".")
            counts[second if first == "policy" else first] += parameter.numel()
    return dict(counts)


def _peaks(algorithm: TeamAlgorithm) -> dict[str, int]:
    config = algorithm.config
    peaks = {"training process": _peak_of_process() + algorithm.bytes_to_come}
    if config.num_env_runners:
        each = algorithm.env_runner_group.foreach_env_runner(_peak_of_process, local_env_runner=False)
        peaks[f"env runners ({config.num_env_runners})"] = sum(each)
    learners = algorithm.learner_group
    if config.num_learners:
        peaks[f"learners ({config.num_learners})"] = sum(_got(learners.foreach_learner(_peak_of_process)))
    on_gpu = sum(_got(learners.foreach_learner(_peak_of_gpu)))
    return peaks | {"GPU": on_gpu} if on_gpu else peaks


def _got(results: Any) -> list[int]:
    """The numbers that learners answered."""
    return [result.get() for result in results]


def _peak_of_process(worker: Any = None) -> int:
    """The largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts kibibytes


def _peak_of_gpu(learner: Any) -> int:
    """The largest memory that tensors of this process took on its GPU, in bytes."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
