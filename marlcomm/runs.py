"""Run folders: where everything about a run lies.

``runs/NAME/STAMP/`` holds config.yaml (resolved), origin.json (the command, versions, the machine), tensorboard/,
metrics.jsonl, checkpoints/ROUND/ and, after the final evaluation, summary.json. Nothing in it leads out of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from marlcomm import checkpoint, disk, trust
from marlcomm.changes import Changes, differences, of_training, told
from marlcomm.config import Experiment, experiment, read
from marlcomm.registry import ConfigError, nearest

if TYPE_CHECKING:
    from marlcomm.envs.settings import EnvSettings

_INIT_FROM, _RESUMED, _MOVED = "init_from", "resumed", "moved"
_KEPT_CHECKPOINTS = 2
_PACKAGES = ("marlcomm", "torch", "ray", "numpy", "gymnasium", "pettingzoo", "mpe2")


def anywhere(command: str) -> str:
    """The command of a training without the folder of its runs, which means nothing elsewhere."""
    return re.sub(r" --runs(=| )('[^']*'|\S+)", "", command)


@dataclass(frozen=True)
class Run:
    """One run's folder.

    Attributes:
        folder: where it is.
        trusted: whether the user said that the code which its config names may be loaded, whoever made the run.
    """

    folder: Path
    trusted: bool = False

    @staticmethod
    def create(settings: Experiment, root: Path, command: Sequence[str]) -> Run:
        """A new folder under ``root/NAME/`` with the resolved config and what began the run (see `origin`)."""
        before = {} if settings.init_from is None else {_INIT_FROM: _spent(Path(settings.init_from))}
        run = Run(new_folder(root / settings.name, time.strftime("%Y-%m-%d_%H-%M-%S")))
        origin = {"command": shlex.join(["marlcomm", *command]), **here(settings)}
        try:
            run._write_settings(settings, origin | before)
        except disk.DiskError:
            run.discard()
            raise
        return run

    @staticmethod
    def open(path: Path | str, trusted: bool = False) -> Run:
        """An existing run: its folder, or the newest one directly below a folder that has something to go on from."""
        path = Path(path)
        if (path / "config.yaml").is_file():
            _refuse_ways_out(path)
            return Run(path, trusted)
        below = sorted(file.parent for file in path.glob("*/config.yaml")) if path.is_dir() else []
        if not below:
            near = {file.parent.parent for place in (path, path.parent) for file in place.glob("*/*/config.yaml")}
            hint = f"; {nearest(str(path), sorted(map(str, near)))}" if near else ""
            raise ConfigError(
                f"run: no run in {str(path)!r}: a run's folder holds config.yaml, as in runs/NAME/STAMP{hint}"
            )
        begun = [folder for folder in below if Run(folder).checkpoints()]
        return Run.open((begun or below)[-1], trusted)

    def experiment(self, overrides: Sequence[str] = ()) -> Experiment:
        """The settings of the run under overrides, checked; config.yaml must say what the checkpoint was trained with.

        Raises `ConfigError` also where it names code of others that this user neither named before nor trusts now.
        """
        settings = self._settings()
        edited = self._untold(settings)
        if edited:
            raise ConfigError(
                f"run: config.yaml of {self.folder} is not what it was trained with: {told(edited)}; put it back"
            )
        return self._settings(overrides) if overrides else settings

    def resumed(self, overrides: Sequence[str] = (), force: bool = False) -> Experiment:
        """The settings with which the run goes on; those of the training may not be others, unless by `force`."""
        settings = self._settings(overrides)
        if settings.init_from != (began := self._settings().init_from):
            raise ConfigError(
                f"init_from: got {settings.init_from!r}, wanted {began!r}: it is read once, when a run begins; "
                "marlcomm train --init-from begins another one"
            )
        changed = self._untold(settings)
        if changed and not force:
            raise ConfigError(
                f"--resume: the run would not be one training any more: {told(changed)}; --force goes on all the same, "
                "and says so in every summary"
            )
        return settings

    def config_file(self) -> Path:
        """The file of its settings; raises `ConfigError` where they name code that must not be loaded."""
        file = self.folder / "config.yaml"
        own, _ = read(file)
        code = [] if self.trusted else trust.named(own)
        if code and not trust.signed(own, self._origin().get("signature")):
            raise ConfigError(
                f"run: {file} was not made by you here, and names code that is not marlcomm's: {', '.join(code)}; "
                "if you trust it, say --trust"
            )
        return file

    def changes(self, settings: Experiment) -> Changes:
        """What settings say otherwise than those that the last checkpoint was trained with."""
        found = self.checkpoints()
        if not found:
            return {}
        then = checkpoint.read(found[-1]).settings or read(self.folder / "config.yaml")[0]  # format 1 has none
        return differences(then, settings.as_data())

    def keep_changes(self, settings: Experiment, command: Sequence[str]) -> None:
        """Make settings those with which the run goes on from its last checkpoint; origin.json tells what changed.

        To be called before the next checkpoint is written: whatever is killed in between, what was forced stays told.
        """
        round_, resumed = self._last_round(), self._resumed()
        if self._pending() is not None:
            resumed = resumed[:-1]  # nothing came of it
        origin = {name: value for name, value in self._origin().items() if name != _RESUMED}
        changes, moved = self.changes(settings), differences(sessions(origin | {_RESUMED: resumed})[-1], here(settings))
        if changes or moved:
            told_of = {"command": shlex.join(["marlcomm", *command]), "round": round_, "changes": changes}
            resumed = [*resumed, told_of | {"forced": list(of_training(changes)), _MOVED: moved}]
        self._write_settings(settings, origin | ({_RESUMED: resumed} if resumed else {}))

    def is_told_otherwise(self, settings: Experiment) -> bool:
        """Whether `keep_changes` would change what the run's files say."""
        return bool(self.changes(settings) or self.moved(settings)) or self._pending() is not None

    def moved(self, settings: Experiment) -> Changes:
        """What the versions and the machine here are otherwise than those that wrote the last checkpoint."""
        return differences(sessions(self._origin())[-1], here(settings)) if self.checkpoints() else {}

    def _untold(self, settings: Experiment) -> Changes:
        """Changes of what is learned that origin.json does not tell of yet."""
        changes = of_training(self.changes(settings))
        pending = self._pending() if changes else None
        told_of = {} if pending is None else {key: new for key, (_, new) in pending["changes"].items()}
        return {key: (old, new) for key, (old, new) in changes.items() if told_of.get(key, old) != new}

    def _pending(self) -> dict[str, Any] | None:
        """What origin.json tells of the newest changes, where no checkpoint has been written since."""
        round_ = self._last_round()
        resumed = [] if round_ is None else self._resumed()
        return resumed[-1] if resumed and resumed[-1]["round"] == round_ else None

    def _resumed(self) -> list[dict[str, Any]]:
        """What origin.json tells of how the run went on."""
        return list(self._origin().get(_RESUMED, []))

    def _last_round(self) -> int | None:
        """Of the last checkpoint; None before there is one."""
        found = self.checkpoints()
        return int(checkpoint.read(found[-1]).counters["round"]) if found else None

    def origin(self) -> dict[str, Any]:
        """What began the run: ``command``, ``versions`` of packages, ``machine``; how it went on, where that changed.

        ``init_from`` says of the run whose weights it began with, if it did, the ``run``, the ``checkpoint``, and the
        ``env_steps`` and ``core_seconds`` that had been spent on them, by the runs that this one began with too.
        ``resumed`` is a list of ``command``, ``round``, ``changes`` (key -> [old, new]), ``forced``, the keys among
        them that change what is learned, and ``moved``, how versions and machine changed (see `sessions`).
        """
        origin = self._origin()
        try:
            found = {name: origin[name] for name in ("command", "versions", "machine")}
        except KeyError as error:
            raise ConfigError(f"run: {str(self._origin_file)!r} does not say what began it: {error}") from None
        return found | {name: origin[name] for name in (_INIT_FROM, _RESUMED) if name in origin}

    @property
    def _origin_file(self) -> Path:
        return self.folder / "origin.json"

    def _origin(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._origin_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"run: {str(self._origin_file)!r} does not say what began it: {error}") from None

    def _settings(self, overrides: Sequence[str] = ()) -> Experiment:
        """What config.yaml says under overrides, checked; not yet whether the last checkpoint was trained with it."""
        return experiment(read(self.config_file(), overrides)[0])

    def _write_settings(self, settings: Experiment, origin: Mapping[str, Any]) -> None:
        """Write origin.json, signed, and config.yaml."""
        signature = trust.signature(settings.as_data())
        signed = {name: value for name, value in origin.items() if name != "signature"}
        signed |= {} if signature is None else {"signature": signature}
        disk.write(self._origin_file, json.dumps(signed, indent=2) + "\n")
        disk.write(self.folder / "config.yaml", settings.as_yaml())

    def checkpoint(self, round_: int) -> Path:
        return self.folder / "checkpoints" / f"{round_:06d}"

    def checkpoints(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return checkpoint.found(self.folder / "checkpoints")

    def last_checkpoint(self) -> Path:
        found = self.checkpoints()
        if not found:
            raise ConfigError(f"run: no checkpoint yet in {self.folder}")
        return found[-1]

    def over(self) -> float:
        """The share of the training that its last checkpoint has behind it."""
        counters = checkpoint.read(self.last_checkpoint()).counters
        return self.experiment().run.done(counters["env_steps"], counters["seconds"])

    def curve(self, tag: str) -> list[tuple[int, float]]:
        """Env steps and values of a figure that training logged; short evaluations are ``validation/...``."""
        file = self.folder / "metrics.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        points = [json.loads(line) for line in lines]
        return [(point["env_steps"], point[tag]) for point in points if tag in point]

    def discard(self) -> None:
        """Remove the folder of a run that never began."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop_old_checkpoints(self) -> None:
        """Keep the newest ones, and remove what an interrupted save left behind."""
        for path in self.checkpoints()[:-_KEPT_CHECKPOINTS]:
            disk.remove(path)
        for path in (self.folder / "checkpoints").glob(".*"):
            shutil.rmtree(path, ignore_errors=True)

    def summary_file(self, changes: Sequence[str] = ()) -> Path:
        """Where the evaluation of the team is kept, or of the team under changes ``channel.KEY=VALUE``."""
        words = (change.removeprefix("channel.").removeprefix("name=") for change in changes)
        return self.folder / f"{'-'.join(['summary', *map(_in_a_name, words)])}.json"

    def write_summary(self, summary: dict[str, Any], changes: Sequence[str] = ()) -> Path:
        """Write an evaluation to `summary_file`."""
        file = self.summary_file(changes)
        disk.write(file, json.dumps(summary, indent=2) + "\n")
        return file

    def summary(self) -> dict[str, Any]:
        file = self.summary_file()
        if not file.is_file():
            raise ConfigError(f"run: no summary yet in {self.folder}: marlcomm evaluate {self.folder} writes one")
        return cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))


def _in_a_name(change: str) -> str:
    """KEY=VALUE as part of a file's name, with a hash where it says more than may stand there."""
    whole = change.replace("=", "-", 1)
    if re.fullmatch(r"[A-Za-z0-9._-]+", whole):
        return whole
    return f"{re.sub('[^A-Za-z0-9._]+', '-', whole).strip('-')}-{hashlib.sha256(change.encode()).hexdigest()[:8]}"


def sessions(origin: Mapping[str, Any]) -> list[dict[str, dict[str, Any]]]:
    """The ``versions`` and the ``machine`` of a run's origin (or summary): those it began with, and whenever others."""
    last = {group: dict(origin.get(group, {})) for group in ("versions", "machine")}
    found = [last]
    for moved in (session.get(_MOVED, {}) for session in origin.get(_RESUMED, [])):
        if moved:
            last = {group: dict(values) for group, values in last.items()}
            for key, (_, new) in moved.items():
                group, _, name = key.partition(".")
                last[group][name] = new
            found.append(last)
    return found


def here(settings: Experiment) -> dict[str, dict[str, Any]]:
    """The ``versions`` of what the experiment uses here, and the ``machine``."""
    return {
        "versions": versions(cast("EnvSettings", settings.env.settings).third_parties),
        "machine": machine(),
    }


def new_folder(parent: Path, name: str) -> Path:
    """Make the folder ``parent/name``, or ``parent/name_K`` where that is taken.

    Raises `ConfigError` where none can be made; `parent` is, or is below, what was given by ``--runs``.
    """
    folder, attempt = parent / name, 0
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():
                raise ConfigError(f"--runs: cannot make {str(folder)!r}: there is a file") from None
        except OSError as error:
            raise ConfigError(f"--runs: cannot make {str(folder)!r}: {error.strerror}") from None
        attempt += 1
        folder = parent / f"{name}_{attempt}"


def _spent(folder: Path) -> dict[str, Any]:
    """What training went into the weights of a checkpoint."""
    counters = checkpoint.read(folder).counters
    run = Run(folder.parent.parent)
    of_a_run = run._origin_file.is_file()
    before = run._origin().get(_INIT_FROM, {}) if of_a_run else {}
    home = run.folder if of_a_run else folder
    spent = {name: counters.get(name, 0) + before.get(name, 0) for name in ("env_steps", "core_seconds")}
    return {"run": str(home), "checkpoint": folder.name} | {name: round(value, 1) for name, value in spent.items()}


def _refuse_ways_out(folder: Path) -> None:
    """Raise `ConfigError` where a link in a run's folder leads out of it: what is written there would be elsewhere."""
    home = folder.resolve()
    for path in folder.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(home):
            raise ConfigError(f"run: {path} is a link out of the run's folder, to {path.resolve()}: remove it")


def versions(modules: Sequence[str] = ()) -> dict[str, str]:
    """What is installed here, for the record; and what some modules came with, by their names at the top level."""
    found = {"python": sys.version.split()[0], "platform": platform.platform(), "source": source()}
    providers = metadata.packages_distributions() if modules else {}
    for package in (*_PACKAGES, *(name for module in modules for name in providers.get(module, ()))):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def source() -> str:
    """A digest of marlcomm's own code, of a release or not: where it is equal, the same code ran."""
    package, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def machine() -> dict[str, Any]:
    """What this is, for the record: ``processor``, ``cores``, ``gpus``."""
    import torch

    gpus = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    return {"processor": _processor(), "cores": os.cpu_count(), "gpus": gpus}


def _processor() -> str:
    """The processor's name, which Python knows on few systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
