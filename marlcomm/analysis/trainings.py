"""Many trainings of one config: each a ``marlcomm train`` in a process of its own, so what was stopped goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from marlcomm.changes import differences
from marlcomm.config import experiment
from marlcomm.config import read as config_data
from marlcomm.registry import ConfigError
from marlcomm.runs import Run

Watch = Callable[[str], None]
PROGRAM = (sys.executable, "-m", "marlcomm.cli")
_running: set[subprocess.Popen[str]] = set()  # commands that have not ended
_THREADS = ("resources.threads=1", "resources.num_cpus=1")


def train(
    config: Path,
    teams: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    root: Path,
    jobs: int,
    watch: Watch = lambda what: None,
) -> dict[tuple[str, int], Path]:
    """Train a config under each label's overrides, but nothing that has been trained below `root` before.

    A training that was stopped goes on from its last checkpoint. Returns the summary of each label and seed. Raises
    `ConfigError` where a team of that name was trained otherwise, or, after all others, where a training fails.
    """
    wanted = [(label, seed) for seed in seeds for label in teams]
    missing = []
    for label, seed in wanted:
        runs = _begun(root, label, seed)
        if runs:
            _check_same(runs[-1], config, _overrides(teams[label], label, seed))
        if not _summaries(root, label, seed):
            missing.append((label, seed))

    def one(case: tuple[str, int]) -> None:
        label, seed = case
        watch(f"{label}, seed {seed}")
        runs = _begun(root, label, seed)
        if runs:
            run("train", "--resume", str(runs[-1].folder))
        else:
            run("train", str(config), *_overrides(teams[label], label, seed), "--runs", str(root))

    each(one, missing, jobs)
    return {(label, seed): _summaries(root, label, seed)[-1] for label in teams for seed in seeds}


def evaluated(trained: Run, changes: Sequence[str]) -> Path:
    """The summary of a trained team under changes, which is evaluated if it was not before."""
    file = trained.summary_file(changes)
    if not file.is_file():
        run("evaluate", str(trained.folder), *changes)
    return file


def run(*arguments: str) -> None:
    """A marlcomm command in a process of its own; raises `ConfigError` with its last words if it fails."""
    command = [*PROGRAM, *arguments]
    # A group of its own: Ctrl-C reaches this process alone, which passes it on once (twice would stop without saving).
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        _running.add(process)
        try:
            said, complained = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.communicate()
            raise
        finally:
            _running.discard(process)
    if process.returncode:
        raise ConfigError(f"{' '.join(arguments)} failed:\n{(complained or said).strip()[-2000:]}")


def each(one: Callable[[tuple[str, int]], None], cases: Sequence[tuple[str, int]], jobs: int) -> None:
    """Do all cases, some at a time, and raise in the end if some failed. Ctrl-C lets what runs save; no more begin."""
    failures: list[ConfigError] = []

    def attempt(case: tuple[str, int]) -> None:
        try:
            one(case)
        except ConfigError as error:
            failures.append(error)

    pool = ThreadPoolExecutor(jobs)
    try:
        for _ in map(attempt, cases) if jobs == 1 else pool.map(attempt, cases):
            pass
    except KeyboardInterrupt:
        for process in tuple(_running):
            process.send_signal(signal.SIGINT)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise ConfigError("\n".join(map(str, failures)))


def _overrides(changes: Sequence[str], label: str, seed: int) -> list[str]:
    return [*changes, f"seed={seed}", f"name={_name(label, seed)}", *_THREADS]


def _check_same(trained: Run, config: Path, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` where a run was not trained as it would be now."""
    then, now = trained.experiment().as_data(), experiment(config_data(config, overrides)[0]).as_data()
    for key, (old, new) in differences(then, now).items():
        raise ConfigError(
            f"{trained.folder} was trained with {key} = {old!r}, wanted {new!r}: give another --runs, or remove it"
        )


def _name(label: str, seed: int) -> str:
    return f"{''.join(c if c.isalnum() else '_' for c in label)}-{seed}"


def _begun(root: Path, label: str, seed: int) -> list[Run]:
    """The runs of a team that have a checkpoint, oldest first."""
    runs = [Run(file.parent) for file in sorted((root / _name(label, seed)).glob("*/config.yaml"))]
    return [run for run in runs if run.checkpoints()]


def _summaries(root: Path, label: str, seed: int) -> list[Path]:
    """The evaluations of a team, oldest first."""
    return sorted((root / _name(label, seed)).glob("*/summary.json"))
