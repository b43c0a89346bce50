"""Trials side by side: the only place that knows Ray Tune.

Tune gives trials their CPUs and asks schedulers and searches what to stop and what to try. It keeps nothing that a
sweep goes on from: its own state is pickled, and restoring it would run whatever is in the folder. So its folder is a
temporary one, a trial goes on from its own checkpoint, and it tells anew what it told before.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from marlcomm.registry import ConfigError

OVER = "over"  # in the last figures of a trial that came to its end by itself
_SETTINGS = "settings"
_NO_LIMIT = 10**15  # env steps at which the scheduler itself would end a trial
_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # who calls has a handler
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs write their own figures
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in settings are relative to where the user is
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a training may be over before the metric was measured
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table whatever the verbosity
}


class Trial(Protocol):
    """What is tried, a round at a time."""

    def step(self) -> dict[str, Any]:
        """Go on; returns figures, with ``done`` and `OVER` at the end."""

    def stop(self) -> None:
        """Save, so that another process goes on."""


@dataclass(frozen=True)
class EarlyStop:
    """Successive halving (ASHA): at env steps grace, grace x factor, ... only the best 1/factor of the trials go on."""

    metric: str
    mode: str
    grace: int
    factor: int

    def scheduler(self) -> ASHAScheduler:
        return ASHAScheduler(
            time_attr="env_steps",
            metric=self.metric,
            mode=self.mode,
            max_t=_NO_LIMIT,
            grace_period=self.grace,
            reduction_factor=self.factor,
        )


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole ones where both are."""

    low: float
    high: float
    log: bool = False

    def domain(self) -> Any:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return (tune.lograndint if self.log else tune.randint)(self.low, self.high + 1)
        return (tune.loguniform if self.log else tune.uniform)(self.low, self.high)


@dataclass(frozen=True)
class Grid:
    """Settings that are known beforehand, each tried once, in this order."""

    points: Sequence[Mapping[str, Any]]
    samples = 1

    def param_space(self) -> dict[str, Any]:
        return {_SETTINGS: tune.grid_search([dict(point) for point in self.points])}

    def searcher(self) -> None:
        return None


@dataclass(frozen=True)
class Search:
    """Optuna's: settings that are suggested by what others reached.

    Attributes:
        space: key -> values to choose from, or a range of numbers.
        trials: how many, those of before included.
        over: how many of these are over.
        tried: settings and metric of those of which the metric is known.
        begun: settings of trials that are not over.
    """

    space: Mapping[str, Sequence[str] | Range]
    metric: str
    mode: str
    seed: int
    trials: int
    over: int = 0
    tried: Sequence[tuple[Mapping[str, Any], float]] = ()
    begun: Sequence[Mapping[str, Any]] = ()

    @property
    def samples(self) -> int:
        return self.trials - self.over

    def param_space(self) -> None:
        return None  # the searcher knows it

    def searcher(self) -> Searcher:
        optuna = optuna_search()
        domains = {
            key: wanted.domain() if isinstance(wanted, Range) else tune.choice(list(wanted))
            for key, wanted in self.space.items()
        }
        searcher = optuna(
            space=optuna.convert_search_space({_SETTINGS: domains}),
            metric=self.metric,
            mode=self.mode,
            seed=self.seed,
            points_to_evaluate=[_point(settings) for settings in self.begun],
        )
        for settings, value in self.tried:
            searcher.add_evaluated_point(_point(settings), value)
        return searcher


def optuna_search() -> Any:
    """Tune's face of Optuna; raises `ConfigError` where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("--search optuna: Optuna is not installed: pip install 'marlcomm[optuna]'") from None
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch


def _point(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{_SETTINGS}/{key}": value for key, value in settings.items()}


class _Tuned(tune.Trainable):
    """A trial in a process of its own, as Tune moves it."""

    def setup(self, config: dict[str, Any], begin: Callable[[dict[str, Any]], Trial]) -> None:
        self._trial = begin(config[_SETTINGS])

    def step(self) -> dict[str, Any]:
        return self._trial.step()

    def cleanup(self) -> None:
        self._trial.stop()


class _NotKept:
    """Left out of what Tune pickles for a later session, which never comes."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Ended(_NotKept, tune.Callback):
    """Says which trials ended, and how."""

    def __init__(self, tell: Callable[[Mapping[str, Any], str], None]) -> None:
        self._tell = tell

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial.config[_SETTINGS], "finished" if OVER in trial.last_result else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial.config[_SETTINGS], "failed")


class _Asked(_NotKept, tune.Stopper):
    """Stops all trials when asked to."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._asked()


@contextmanager
def _environment(**settings: str) -> Iterator[None]:
    """Tune is told by environment variables how to behave; afterwards they are what they were."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def run_trials(
    begin: Callable[[dict[str, Any]], Trial],
    what: Grid | Search,
    bundles: list[dict[str, float]],
    jobs: int,
    early_stop: EarlyStop | None,
    tell: Callable[[Mapping[str, Any], str], None],
    asked: Callable[[], bool],
) -> None:
    """Run trials, some at a time, each with the CPUs of its bundles; one that fails leaves the others alone.

    Args:
        begin: makes a trial of settings, in the process that runs it.
        what: the settings of trials, or how to find them.
        bundles: CPUs and GPUs of the processes of a trial.
        jobs: trials at a time.
        early_stop: what stops trials that are worse than others, if anything does.
        tell: called with the settings of a trial that ended: finished, stopped or failed.
        asked: whether all are to save and stop.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # trials keep their tracebacks, and `tell` is called
    with _environment(**_ENVIRONMENT), tempfile.TemporaryDirectory() as scratch:
        tune.Tuner(
            tune.with_resources(tune.with_parameters(_Tuned, begin=begin), tune.PlacementGroupFactory(bundles)),
            param_space=what.param_space(),
            tune_config=tune.TuneConfig(
                search_alg=what.searcher(),
                num_samples=what.samples,
                scheduler=None if early_stop is None else early_stop.scheduler(),
                max_concurrent_trials=jobs,
                reuse_actors=False,  # a process of its own, whose memory is its own
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                callbacks=[_Ended(tell)],
                stop=_Asked(asked),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()
