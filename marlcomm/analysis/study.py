"""Studies: which teams to train on a world and with which seeds, what they are to reach, and what they did reach.

A study is a YAML file. Its result files are the summaries of its teams, one for each seed, each with the settings that
it was trained with; what a training died of, where it did; and what was tried before.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from marlcomm import disk
from marlcomm.analysis.study_settings import StudySettings
from marlcomm.analysis.trainings import Progress, Watch, evaluated, progress, team_name, told_of, train
from marlcomm.changes import Changes, check_evaluated, differences, of_training
from marlcomm.config import experiment, load, merge
from marlcomm.config import read as config_data
from marlcomm.registry import ConfigError, nearest, validate
from marlcomm.runs import Run, anywhere

CURVE = "curve"  # of a result file: pairs of env steps and the headline of a short evaluation
FAILED = "failed"  # of a result file: what the training died of; nothing else is in it but the seed
DIED = "failed_before"  # of a result file: what earlier attempts at this training died of
_OF_THE_RECIPE = ("run.env_steps", "run.minutes", "init_from")  # though they may change while a run goes on
_TUNING = "tuning"
_TRIALS = "trials.json"


@dataclass(frozen=True)
class Study:
    """A study and where it lies.

    Attributes:
        name: of its file.
        settings: what is in it.
        config: the config of its teams.
        results: folder of its result files.
    """

    name: str
    settings: StudySettings
    config: Path
    results: Path

    @staticmethod
    def read(file: Path, results: Path) -> Study:
        """A study from its file, whose results lie in a folder of its name below `results`."""
        settings = _settings(file)
        config = Path(os.path.normpath(file.parent / settings.config))  # results name it
        try:
            load(config)
        except ConfigError as error:
            raise ConfigError(f"{file.stem}.{error}") from None
        for label in settings.same_as:
            _check_elsewhere(label, file, settings)
        return Study(file.stem, settings, config, results / file.stem)

    def chosen(self) -> dict[str, tuple[str, ...]]:
        """What is trained, as `recipes`; raises `ConfigError` where settings have not been chosen yet."""
        missing = self.settings.trials.keys() - {trial["team"] for trial in self.trials() if trial["chosen"]}
        if missing:
            raise ConfigError(
                f"{self.name}.trials: settings of {', '.join(sorted(missing))} have not been chosen yet: "
                "marlcomm study tune does it"
            )
        return self.recipes()

    def recipes(self) -> dict[str, tuple[str, ...]]:
        """The settings of all and of each team, and after them those that were chosen for it."""
        found = {trial["team"]: trial["changes"] for trial in self.trials() if trial["chosen"]}
        return {
            label: (*self.settings.changes, *changes, *found.get(label, ()))
            for label, changes in self.settings.teams.items()
        }

    def strays(self, label: str, settings: Sequence[Mapping[str, Any]]) -> list[Changes]:
        """How results were trained otherwise than their team would be now, whatever the seed: key -> (then, now)."""
        now = experiment(config_data(self.config, self.recipes()[self.settings.trained(label)])[0])
        found = [differences(now.with_defaults(then), now.as_data() | {"seed": then["seed"]}) for then in settings]
        return [of_training(one) | {key: one[key] for key in _OF_THE_RECIPE if key in one} for one in found]

    def evaluation_command(self, label: str, seed: int) -> str | None:
        """What evaluates a team that was trained as another; None of the others."""
        if label not in self.settings.afterwards:
            return None
        afterwards = self.settings.afterwards[label]
        return shlex.join(["marlcomm", "evaluate", f"runs/{team_name(afterwards.of, seed)}", *afterwards.changes])

    def trials(self) -> list[dict[str, Any]]:
        """What was tried before: a team, changes, the figure on each tuning seed, and whether it was chosen."""
        file = self.results / _TRIALS
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []

    def untried(self, label: str) -> list[str]:
        """Why a team's settings were not chosen as the study says, in sentences; none where they were, or none are."""
        wanted, sign = self.settings.trials.get(label), -1 if self.settings.metric == "length" else 1
        if wanted is None:
            return []
        tried = [trial for trial in self.trials() if trial["team"] == label]
        if sorted(tuple(trial["changes"]) for trial in tried) != sorted(wanted):
            return ["its settings were chosen among others than the study's trials"]
        ended = {
            index: sign * float(np.mean([trial["by_seed"][str(seed)] for seed in self.settings.tuning_seeds]))
            for index, trial in enumerate(tried)
            if trial["by_seed"].keys() == set(map(str, self.settings.tuning_seeds))
        }
        if len(ended) < sum(FAILED not in trial for trial in tried):
            return ["its settings were chosen on other seeds than the study's tuning_seeds"]
        chosen = [index for index, trial in enumerate(tried) if trial["chosen"]]
        if len(chosen) != 1 or ended.get(chosen[0]) != max(ended.values(), default=None):
            return ["its settings are not those of the best trial"]
        return []

    def evaluations(self) -> dict[str, list[dict[str, Any]]]:
        """The result files of trainings that ended well: label -> summaries by seed, in the order of the study."""
        found = {label: [data for data in own if FAILED not in data] for label, own in self._results().items()}
        return {label: own for label, own in found.items() if own}

    def failures(self) -> dict[str, dict[int, str]]:
        """What trainings died of: label -> seed -> why."""
        results = self._results()
        return {
            label: {data["seed"]: data[FAILED] for data in own if FAILED in data}
            for label, own in results.items()
            if any(FAILED in data for data in own)
        }

    def strangers(self) -> list[str]:
        """Names of result files that are of no team and seed of the study."""
        own = {self._file(label, seed) for label in self._labels() for seed in self.settings.seeds}
        return sorted(file.name for file in self.results.glob("*.json") if file not in own | {self.results / _TRIALS})

    def keep(self, label: str, seed: int, summary: Path) -> None:
        """Store a summary as a result file, with the settings and the curve of its training."""
        run = Run(summary.parent)
        data = json.loads(summary.read_text(encoding="utf-8"))
        data["command"] = anywhere(data["command"])
        data["settings"] = run.experiment().as_data()
        if (command := self.evaluation_command(label, seed)) is not None:
            data["evaluation_command"] = command
        else:
            data[CURVE] = run.curve(f"validation/{self.settings.metric}")
        file = self._file(label, seed)
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if died := [*before.get(DIED, []), *([before[FAILED]] if FAILED in before else [])]:
            data[DIED] = died
        self._write(file, data)

    def keep_failure(self, label: str, seed: int, error: ConfigError) -> None:
        """Store what a training died of, unless it has a result already."""
        file = self._file(label, seed)
        if not file.is_file() or FAILED in json.loads(file.read_text(encoding="utf-8")):
            self._write(file, {"seed": seed, FAILED: str(error)})

    def keep_trials(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """Store what was tried."""
        self._write(self.results / _TRIALS, trials)

    def _write(self, file: Path, data: Any) -> None:
        disk.write(file, json.dumps(data, indent=1) + "\n")

    def _labels(self) -> tuple[str, ...]:
        return (*self.settings.teams, *self.settings.afterwards)

    def _results(self) -> dict[str, list[dict[str, Any]]]:
        """The result files there are: label -> what is in them by seed, in the order of the study."""
        return {
            label: [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
            for label in self._labels()
            for files in [[self._file(label, seed) for seed in self.settings.seeds]]
        }

    def _file(self, label: str, seed: int) -> Path:
        """Of a result; for a team that another study trains, that one's."""
        name, _, theirs = self.settings.same_as.get(label, f"{self.name}/{label}").partition("/")
        return self.results.with_name(name) / f"{team_name(theirs, seed)}.json"


def _settings(file: Path) -> StudySettings:
    """What a study's file says; raises `ConfigError` where it cannot be read."""
    return cast(StudySettings, validate(StudySettings, load(file, "study"), file.stem))


def _check_elsewhere(label: str, file: Path, settings: StudySettings) -> None:
    """Raise `ConfigError` where the study that is to train a team of this file's, beside it, has no such results."""
    key, told = f"{file.stem}.same_as.{label}", settings.same_as[label]
    name, _, theirs = told.partition("/")
    other = file.with_name(f"{name}.yaml")
    if other == file or not other.is_file():
        raise ConfigError(f"{key}: got {told!r}, wanted STUDY/LABEL of another study, {other.parent}/STUDY.yaml")
    trainer = _settings(other)
    if theirs not in trainer.trained_here:
        raise ConfigError(f"{key}: {name} trains no team {theirs!r}; {nearest(theirs, trainer.trained_here)}")
    seeds = sorted(set(settings.seeds) - set(trainer.seeds))
    if seeds:
        raise ConfigError(f"{key}: {name} has no seed {seeds[0]}, wanted seeds among {list(trainer.seeds)}")
    if trainer.metric != settings.metric:
        raise ConfigError(f"{key}: {name} has curves of {trainer.metric}, wanted metric {settings.metric!r}")
    if trainer.trials:
        raise ConfigError(f"{key}: {name} has trials, whose choice is its own")


class Ahead(NamedTuple):
    """A training of a study: the share of it that is over, and minutes of a core that the rest will take, if known."""

    label: str
    seed: int
    over: float
    core_minutes: float | None


def ahead(
    study: Study, root: Path, labels: Iterable[str] | None = None, seeds: Sequence[int] | None = None
) -> list[Ahead]:
    """What `run` would do. How long it takes is known from other seeds of the team, or what is over of a training."""
    teams, seeds = _asked(study, labels, seeds)
    results = study.evaluations()

    def whole(label: str, so_far: Progress) -> float | None:
        """Minutes of a core that all of a training takes."""
        known = [summary for summary in results.get(label, []) if "settings" in summary]
        strays = study.strays(label, [summary["settings"] for summary in known])
        seconds = [summary["core_seconds"] for summary, stray in zip(known, strays, strict=True) if not stray]
        if so_far.over:
            seconds = [so_far.core_seconds / so_far.over]
        return float(np.mean(seconds)) / 60 if seconds else None

    return [
        Ahead(label, seed, one.over, None if (minutes := whole(label, one)) is None else minutes * (1 - one.over))
        for (label, seed), one in progress(study.config, teams, seeds, root / study.name).items()
    ]


def run(
    study: Study,
    root: Path,
    jobs: int,
    labels: Iterable[str] | None = None,
    seeds: Sequence[int] | None = None,
    watch: Watch = lambda what: None,
) -> None:
    """Train and evaluate what is missing below `root`, some of it or all; each result file is stored as it is there."""

    def done(label: str, seed: int, summary: Path) -> None:
        study.keep(label, seed, summary)
        for changed, afterwards in study.settings.afterwards.items():
            if afterwards.of == label:
                watch(f"{changed}, seed {seed}")
                study.keep(changed, seed, evaluated(Run(summary.parent), afterwards.changes))

    teams, seeds = _asked(study, labels, seeds)
    train(study.config, teams, seeds, root / study.name, jobs, watch, done, study.keep_failure)


def _asked(
    study: Study, labels: Iterable[str] | None, seeds: Sequence[int] | None
) -> tuple[dict[str, tuple[str, ...]], Sequence[int]]:
    """The teams and the seeds that are asked for, by default all that are trained here.

    Raises `ConfigError` where the study has them not, or another one trains them.
    """
    teams, elsewhere = study.chosen(), study.settings.same_as
    for label, afterwards in study.settings.afterwards.items():
        with told_of(label):  # before anything is trained for hours
            check_evaluated(afterwards.changes)
            experiment(merge(config_data(study.config, teams[afterwards.of])[0], afterwards.changes)[0])
    labels = study.settings.trained_here if labels is None else list(labels)
    for label in labels:
        if label not in teams:
            raise ConfigError(f"{study.name}: no team {label!r}; {nearest(label, teams)}")
        if label in elsewhere:
            name, _, theirs = elsewhere[label].partition("/")
            raise ConfigError(f"{study.name}: {label!r} is trained by study {name!r} as {theirs!r}")
    seeds = study.settings.seeds if seeds is None else seeds
    strange = sorted(set(seeds) - set(study.settings.seeds))
    if strange:
        raise ConfigError(f"{study.name}.seeds: got {strange[0]}, wanted one of {list(study.settings.seeds)}")
    return {label: teams[label] for label in labels}, seeds


def tune(study: Study, root: Path, jobs: int, watch: Watch = lambda what: None) -> list[dict[str, Any]]:
    """Try all trials on the tuning seeds and worlds, and choose the best of each team; stores and returns what was.

    A trial that fails is told of, and not chosen. Raises `ConfigError` where all of a team's do.
    """
    settings = study.settings
    if not settings.trials:
        raise ConfigError(f"{study.name}.trials: there are none, wanted a team's settings to choose from")
    tried = {
        f"{label} {number}": (label, changes)
        for label, trials in settings.trials.items()
        for number, changes in enumerate(trials)
    }
    teams = {
        name: (*settings.changes, *settings.teams[label], *changes, f"evaluation.stream={_TUNING}")
        for name, (label, changes) in tried.items()
    }
    figures: dict[str, dict[str, float]] = {name: {} for name in tried}
    failures: dict[str, str] = {}

    def done(name: str, seed: int, summary: Path) -> None:
        data = json.loads(summary.read_text(encoding="utf-8"))
        figures[name][str(seed)] = data[f"{settings.group}/{settings.metric}"]

    def failed(name: str, seed: int, error: ConfigError) -> None:
        failures[name] = str(error)

    try:
        train(study.config, teams, settings.tuning_seeds, root / study.name / _TUNING, jobs, watch, done, failed)
    except ConfigError:
        if not failures:  # nothing was tried
            raise
    found: list[dict[str, Any]] = []
    for name, (label, changes) in tried.items():
        found.append(
            {"team": label, "changes": list(changes), "metric": settings.metric, "by_seed": figures[name]}
            | ({FAILED: failures[name]} if name in failures else {})
        )
    sign = -1 if settings.metric == "length" else 1
    for label in settings.trials:
        trials = [trial for trial in found if trial["team"] == label and FAILED not in trial]
        if not trials:
            raise ConfigError(f"{study.name}.trials: all of {label} failed: {failures[f'{label} 0']}")
        best = max(trials, key=lambda trial: sign * float(np.mean(list(trial["by_seed"].values()))))
        for trial in found:
            if trial["team"] == label:
                trial["chosen"] = trial is best
    study.keep_trials(found)
    return found
