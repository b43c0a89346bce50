"""A trial of a sweep, and all of them side by side."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from marlcomm.config import Experiment
from marlcomm.runs import Run
from marlcomm.sweeps.folder import Sweep, TrialFolder, bundles
from marlcomm.sweeps.settings import space
from marlcomm.training import built, rounds

if TYPE_CHECKING:
    from marlcomm.rllib.tuning import EarlyStop, Grid, Search


class _Stop:
    """A wish to stop."""

    requested = False


class Trial:
    """A run, a round at a time, that goes on where its folder was left.

    Where figures decide what goes on, it first tells anew those of rounds that were trained before.
    """

    def __init__(self, sweep: Sweep, point: Mapping[str, Any]) -> None:
        self._sweep, self._settings, self._folder = sweep, sweep.experiment(point), sweep.trial(point)
        self._stop, self._stack = _Stop(), ExitStack()
        self._past = self._folder.rounds() if sweep.settings.decides else []
        trained = iter(()) if self._folder.over else self._train()
        self._reports = self._report(trained)

    def step(self) -> dict[str, Any]:
        """The figures after another round: all that were logged, as they were logged last."""
        try:
            return next(self._reports)
        except Exception:
            self._folder.end("failed", traceback.format_exc())
            raise

    def stop(self) -> None:
        """Finish the round, and save."""
        self._stop.requested = True
        for _ in self._reports:
            pass
        self._stack.close()

    def _report(self, trained: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Figures of rounds, past ones first, from that on in which the metric is known."""
        from marlcomm.rllib.tuning import OVER

        latest: dict[str, Any] = {}
        for source in (self._past, trained):
            for figures in source:
                latest |= figures
                if not self._sweep.settings.decides or self._sweep.settings.metric in latest:
                    yield dict(latest)
        if not self._stop.requested:
            yield latest | {"done": True, OVER: True}

    def _train(self) -> Iterator[dict[str, Any]]:
        """Figures of rounds from the last checkpoint on; evaluates after the last one."""
        import torch

        from marlcomm.analysis.evaluation import evaluate_run

        settings = self._settings
        torch.set_num_threads(settings.resources.threads or 1)
        run, resuming = self._begun()
        algorithm = self._stack.enter_context(built(run, settings, resuming))
        for figures in rounds(algorithm, run, settings, self._stop):
            yield figures | {"env_steps": algorithm.env_steps}
        if not self._stop.requested:
            run.write_summary(evaluate_run(run, settings))

    def _begun(self) -> tuple[Run, bool]:
        """The run, and whether it goes on."""
        self._folder.begin()
        begun = self._folder.run()
        if begun is not None:
            return begun, True
        return Run.create(self._settings, self._sweep.folder / "trials", self._sweep.settings.command), False


def cpus(settings: Experiment) -> int:
    """The CPUs of a trial."""
    return math.ceil(sum(bundle.get("CPU", 0.0) for bundle in bundles(settings)))


def run_sweep(
    sweep: Sweep,
    settings: Experiment,
    tell: Callable[[TrialFolder, str], None],
    asked: Callable[[], bool],
    ready: Callable[[], None],
) -> None:
    """Run all trials that are not over.

    Args:
        sweep: the sweep; what is in its folder is gone on from.
        settings: of any of its trials: all have the same resources.
        tell: called with each trial that ended, and how.
        asked: whether all are to save and stop.
        ready: called when Ray has started, which takes signals for itself.
    """
    from marlcomm.rllib.cluster import running_ray
    from marlcomm.rllib.tuning import run_trials

    def ended(point: Mapping[str, Any], status: str) -> None:
        trial = sweep.trial(point)
        if not trial.over and trial.status()[0] != "failed":
            trial.end(status, "its process died" if status == "failed" else "")
        sweep.write_results()
        tell(trial, trial.status()[0])

    wanted = _what(sweep, settings.seed)
    with running_ray(_all_at_once(sweep, settings)):
        ready()
        run_trials(
            partial(Trial, sweep), wanted, bundles(settings), sweep.settings.jobs, _early_stop(sweep), ended, asked
        )


def _all_at_once(sweep: Sweep, settings: Experiment) -> Experiment:
    """Settings whose resources are those of all trials that run side by side."""
    from marlcomm.rllib.cluster import joined_cluster

    total = sweep.settings.jobs * cpus(settings)
    own = total if joined_cluster(settings) is None else None  # a cluster counts its own
    workers = {"num_env_runners": total, "num_learners": 0, "num_gpus_per_learner": 0, "num_cpus": own, "threads": 1}
    return replace(settings, resources=settings.resources.model_copy(update=workers))


def _early_stop(sweep: Sweep) -> EarlyStop | None:
    from marlcomm.rllib.tuning import EarlyStop

    asked = sweep.settings
    return None if asked.scheduler == "none" else EarlyStop(asked.metric, asked.mode, asked.grace, asked.factor)


def _what(sweep: Sweep, seed: int) -> Grid | Search:
    """The settings of what is left; where a scheduler decides also of what is over, first, so that it knows them."""
    from marlcomm.rllib.tuning import Grid, Search

    asked, trials = sweep.settings, sweep.trials()
    over = [trial for trial in trials if trial.over]
    left = [trial.point for trial in trials if not trial.over]
    if asked.search == "grid":
        return Grid([*(trial.point for trial in over if asked.decides), *left])
    told = [(trial.point, trial.latest()) for trial in over]  # of a short training nobody may know the metric
    tried = [(point, latest[asked.metric]) for point, latest in told if asked.metric in latest]
    return Search(space(asked.swept), asked.metric, asked.mode, seed, asked.trials, len(over), tried, left)
