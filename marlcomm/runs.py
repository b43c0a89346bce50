"""Run folders: where everything about a run lies.

``runs/NAME/STAMP/`` holds config.yaml (resolved), origin.json (the command, versions, the machine), tensorboard/,
metrics.jsonl, checkpoints/ROUND/ and, after the final evaluation, summary.json.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from marlcomm import checkpoint, disk
from marlcomm.config import Experiment, experiment, read
from marlcomm.registry import ConfigError

_KEPT_CHECKPOINTS = 2
_PACKAGES = ("marlcomm", "torch", "ray", "numpy", "gymnasium", "pettingzoo")


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @staticmethod
    def create(settings: Experiment, root: Path, command: Sequence[str]) -> Run:
        """A new folder under ``root/NAME/`` with the resolved config, the command line, versions and machine."""
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        for attempt in range(1000):
            folder = root / settings.name / (stamp if attempt == 0 else f"{stamp}_{attempt}")
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigError(f"--runs: cannot make {str(folder)!r}: {error.strerror}") from None
        (folder / "config.yaml").write_text(settings.as_yaml(), encoding="utf-8")
        origin = {"command": shlex.join(["marlcomm", *command]), "versions": versions(), "machine": machine()}
        (folder / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        return Run(folder)

    @staticmethod
    def open(path: Path | str) -> Run:
        """An existing run: its folder, or the newest one directly below a folder that has something to go on from."""
        path = Path(path)
        if (path / "config.yaml").is_file():
            return Run(path)
        below = sorted(file.parent for file in path.glob("*/config.yaml")) if path.is_dir() else []
        if not below:
            raise ConfigError(f"run: no run in {str(path)!r}: a run's folder holds config.yaml, as in runs/NAME/STAMP")
        begun = [folder for folder in below if Run(folder).checkpoints()]
        return Run((begun or below)[-1])

    def experiment(self, overrides: Sequence[str] = ()) -> Experiment:
        """The settings of the run under overrides, checked."""
        data, _ = read(self.folder / "config.yaml", overrides)
        return experiment(data)

    def origin(self) -> dict[str, Any]:
        """What began the run: ``command``, ``versions`` of packages, ``machine``."""
        file = self.folder / "origin.json"
        try:
            origin = json.loads(file.read_text(encoding="utf-8"))
            return {name: origin[name] for name in ("command", "versions", "machine")}
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"run: {str(file)!r} does not say what began it: {error}") from None

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
        named = (re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-") for word in words)
        return self.folder / f"{'-'.join(['summary', *named])}.json"

    def write_summary(self, summary: dict[str, Any], changes: Sequence[str] = ()) -> Path:
        """Write an evaluation to `summary_file`."""
        file = self.summary_file(changes)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        partial.rename(file)
        return file

    def summary(self) -> dict[str, Any]:
        file = self.summary_file()
        if not file.is_file():
            raise ConfigError(f"run: no summary yet in {self.folder}: marlcomm evaluate {self.folder} writes one")
        return cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))


def versions() -> dict[str, str]:
    """What is installed here, for the record."""
    found = {"python": sys.version.split()[0], "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


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
