"""The folder of a sweep: what was asked for, a folder for each trial, a table of what became of them.

``sweep.yaml`` holds the settings, ``trials/LABEL/`` what is known of a trial (``trial.json``: its settings;
``outcome.json``: why it is over without being finished) and its run by its stamp, ``results.json`` and ``results.csv``
a row for each trial.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from marlcomm import checkpoint, disk, trust
from marlcomm.config import Experiment, check_name, experiment, merge
from marlcomm.glossary import glossary
from marlcomm.registry import ConfigError, nearest, validate
from marlcomm.runs import Run, new_folder
from marlcomm.sweeps.settings import SweepSettings, ends, label, parts, points

_FIGURES = {
    "success": "evaluation/success",
    "return": "evaluation/return",
    "bits": "evaluation/coded_bits_per_agent_step",
}
_SIGNATURE = "signature"
_SHORT = {"short_success": "validation/success", "short_return": "validation/return"}


@dataclass(frozen=True)
class Sweep:
    """A sweep and its folder.

    Attributes:
        folder: where it is.
        settings: what was asked for.
        trusted: whether the user said that the code which it names may be loaded, whoever made it.
    """

    folder: Path
    settings: SweepSettings
    trusted: bool = False

    @staticmethod
    def create(settings: SweepSettings, root: Path) -> Sweep:
        """A new folder ``root/NAME/sweep_STAMP``."""
        folder = new_folder(root / settings.config["name"], f"sweep_{time.strftime('%Y-%m-%d_%H-%M-%S')}")
        data = settings.model_dump(mode="json")
        OmegaConf.save(OmegaConf.create(data | {_SIGNATURE: _seal(settings)}), folder / "sweep.yaml")
        return Sweep(folder.absolute(), settings)  # trials run elsewhere

    @staticmethod
    def open(folder: Path, jobs: int | None = None, trusted: bool = False) -> Sweep:
        """An existing sweep, by its folder or the newest one directly below a folder; with other jobs, if given.

        Raises `ConfigError` also where it names code of others, and neither this user made it here nor is it trusted.
        """
        found = [folder, *sorted(folder.glob("sweep_*"), reverse=True)]
        folder = next((one for one in found if (one / "sweep.yaml").is_file()), folder)
        file = folder / "sweep.yaml"
        if not file.is_file():
            raise ConfigError(f"--resume: no sweep in {str(folder)!r}: its folder holds sweep.yaml")
        try:
            data = OmegaConf.to_container(OmegaConf.load(file))
        except Exception as error:  # YAML's errors and OmegaConf's share no class
            raise ConfigError(f"--resume: cannot read {str(file)!r}: {error}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"--resume: {str(file)!r} must hold keys and values")
        data = cast(dict[str, Any], data)
        signature = data.pop(_SIGNATURE, None)
        settings = cast(
            SweepSettings, validate(SweepSettings, data | ({} if jobs is None else {"jobs": jobs}), "sweep")
        )
        code = [] if trusted else _code(settings)
        if code and not trust.same(_seal(settings), signature):
            raise ConfigError(
                f"--resume: {file} was not made by you here (or before sweeps were signed), and names code that is not "
                f"marlcomm's: {', '.join(code)}; if you trust it, say --trust"
            )
        return Sweep(folder.absolute(), settings, trusted)

    def experiment(self, point: Mapping[str, Any]) -> Experiment:
        """The settings of a trial, checked."""
        return trial_settings(self.settings, point)

    def trial(self, point: Mapping[str, Any]) -> TrialFolder:
        return TrialFolder(self.folder / "trials" / label(point), dict(point), self.trusted)

    def trials(self) -> list[TrialFolder]:
        """All of a grid, or those that a search has begun, oldest first."""
        if self.settings.search == "grid":
            return [self.trial(point) for point in points(self.settings.swept)]
        files = sorted(self.folder.glob("trials/*/trial.json"), key=lambda file: file.stat().st_mtime_ns)
        return [TrialFolder(file.parent, json.loads(file.read_text(encoding="utf-8")), self.trusted) for file in files]

    def write_results(self) -> list[dict[str, Any]]:
        """Write and return the row of each trial, whatever became of it."""
        rows = [trial.row() for trial in self.trials()]
        record = {"command": " ".join(self.settings.command), "trials": rows}
        disk.write(self.folder / "results.json", json.dumps(record, indent=1) + "\n")
        flat = [row["settings"] | {name: value for name, value in row.items() if name != "settings"} for row in rows]
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(flat[0]) if flat else list(self.settings.swept))
        table.writeheader()
        table.writerows(flat)
        disk.write(self.folder / "results.csv", text.getvalue())
        return rows


def _seal(settings: SweepSettings) -> str | None:
    """The user's signature of all that a sweep's trials are made of."""
    return trust.seal(settings.model_dump(mode="json", exclude={"jobs"}))


def _code(settings: SweepSettings) -> list[str]:
    """What a sweep names of others' code, wherever it stands; texts that are put together (``${...}``) may be some."""
    swept = [f"{key}={part}" for key, text in settings.swept.items() for part in parts(text)]
    changed = [merge({}, [change])[0] for change in (*settings.changes, *swept) if "${" not in change]
    found = [name for data in (settings.config, *changed) for name in trust.named(data)]
    asked = json.dumps(settings.model_dump(mode="json", exclude={"command"}))
    return list(dict.fromkeys([*found, *(["${...}"] if "${" in asked else [])]))


def check(settings: SweepSettings) -> list[Experiment]:
    """The settings of all trials, or of those at the ends of a search; raises `ConfigError` where one is wrong."""
    check_name(settings.config["name"])
    tried = points(settings.swept) if settings.search == "grid" else ends(settings.swept)
    checked = [trial_settings(settings, point) for point in tried]
    first = bundles(checked[0])
    for point, one in zip(tried, checked, strict=True):
        if bundles(one) != first:
            told = ", ".join(f"{key}={value}" for key, value in point.items())
            raise ConfigError(f"sweep: trials share their resources, but {told} asks for others: sweep them apart")
    for one in checked if settings.decides else ():
        _check_metric(settings.metric, one)
    return checked


def trial_settings(asked: SweepSettings, point: Mapping[str, Any]) -> Experiment:
    """The settings of a trial, checked. It has one thread, unless the config says otherwise."""
    data, _ = merge(asked.config, [*asked.changes, *(f"{key}={value}" for key, value in point.items())])
    resources = data.get("resources") or {}
    if isinstance(resources, dict):
        data["resources"] = resources | {"threads": resources.get("threads") or 1}
    return experiment(data | {"name": label(point)})


def _check_metric(metric: str, settings: Experiment) -> None:
    """Raise `ConfigError` unless rounds log the metric."""
    every = settings.run.evaluate_every
    known = [tag for tag in glossary(settings.env.name) if tag.startswith(("train/", "validation/"))]
    if metric not in known:
        raise ConfigError(f"--metric: no figure {metric!r} of rounds; {nearest(metric, known)}")
    if metric.startswith("validation/") and every is None:
        raise ConfigError(f"--metric: {metric!r} is of short evaluations, and run.evaluate_every is null")


def bundles(settings: Experiment) -> list[dict[str, float]]:
    """The CPUs and GPUs of a trial's processes: that which trains first, then those that play and learn."""
    resources = settings.resources
    gpus = {"GPU": resources.num_gpus_per_learner} if resources.num_gpus_per_learner else {}
    main = {"CPU": float(resources.threads or 1)} | ({} if resources.num_learners else gpus)
    return [main, *[{"CPU": 1.0}] * resources.num_env_runners, *[gpus or {"CPU": 1.0}] * resources.num_learners]


@dataclass(frozen=True)
class TrialFolder:
    """What is known of a trial."""

    folder: Path
    point: dict[str, Any]
    trusted: bool = False

    def begin(self) -> None:
        """Keep the settings; what became of the trial before is forgotten."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "outcome.json").unlink(missing_ok=True)
        if not (self.folder / "trial.json").is_file():
            disk.write(self.folder / "trial.json", json.dumps(self.point) + "\n")

    def end(self, status: str, reason: str) -> None:
        """Keep why it is over; what is finished has a summary, and needs no word."""
        if self.status()[0] != "finished":
            disk.write(self.folder / "outcome.json", json.dumps({"status": status, "reason": reason}) + "\n")

    def run(self) -> Run | None:
        """Its newest run that has begun."""
        folders = [file.parent for file in sorted(self.folder.glob("*/config.yaml"))]
        newest = next((folder for folder in reversed(folders) if Run(folder).checkpoints()), None)
        return None if newest is None else Run.open(newest, self.trusted)

    def status(self) -> tuple[str, str]:
        """finished, stopped, failed, interrupted or waiting; and the traceback of a failure."""
        run, outcome = self.run(), self.folder / "outcome.json"
        if run is not None and run.summary_file().is_file():
            return "finished", ""
        if outcome.is_file():
            found = json.loads(outcome.read_text(encoding="utf-8"))
            return found["status"], found["reason"]
        return ("waiting" if run is None else "interrupted"), ""

    @property
    def over(self) -> bool:
        return self.status()[0] in ("finished", "stopped")

    def row(self) -> dict[str, Any]:
        """Its line of the table: figures of the final evaluation, and of the last short one."""
        (status, reason), run, last = self.status(), self.run(), self.latest()
        summary = run.summary() if run is not None and status == "finished" else {}
        seconds = summary.get("training_seconds", last.get("time/training_seconds", 0.0))
        return {
            "settings": self.point,
            "status": status,
            **{name: summary.get(tag) for name, tag in _FIGURES.items()},
            **{name: last.get(tag) for name, tag in _SHORT.items()},
            "env_steps": int(last.get("env_steps", 0)),
            "minutes": round(seconds / 60, 2),
            "run": "" if run is None else str(run.folder),
            "reason": reason.strip().rpartition("\n")[2],
        }

    def latest(self) -> dict[str, float]:
        """Every figure as it was logged last."""
        figures: dict[str, float] = {}
        for line in self.rounds():
            figures |= line
        return figures

    def rounds(self) -> list[dict[str, float]]:
        """The figures of its rounds, as far as its last checkpoint goes."""
        run = self.run()
        if run is None or not (run.folder / "metrics.jsonl").is_file():
            return []
        saved = checkpoint.read(run.last_checkpoint()).counters["env_steps"]
        lines = (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        found: list[dict[str, float]] = [json.loads(line) for line in lines if line.endswith("}")]
        return [line for line in found if line["env_steps"] <= saved]
