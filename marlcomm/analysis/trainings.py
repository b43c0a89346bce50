"""Many trainings of one config: each a ``marlcomm train`` in a process of its own, so what was stopped goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from marlcomm import checkpoint
from marlcomm.changes import differences
from marlcomm.config import experiment
from marlcomm.config import read as config_data
from marlcomm.registry import ConfigError
from marlcomm.runs import Run

Watch = Callable[[str], None]
Done = Callable[[str, int, Path], None]  # what is done with a label's and seed's summary, as soon as it is there
Failed = Callable[[str, int, ConfigError], None]  # and with what a training died of
PROGRAM = (sys.executable, "-m", "marlcomm.cli")
_running: set[subprocess.Popen[str]] = set()  # commands that have not ended
_TRAINED = 0.99  # the share of a training that has ended, but is not evaluated yet
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)  # exit codes
_THREADS = ("resources.threads=1", "resources.num_cpus=1")


class Progress(NamedTuple):
    """How far a training has come: the share of it that is over, 1 only where it is evaluated too, and what it took."""

    over: float
    core_seconds: float


def train(
    config: Path,
    teams: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    root: Path,
    jobs: int,
    watch: Watch = lambda what: None,
    done: Done = lambda label, seed, summary: None,
    failed: Failed = lambda label, seed, error: None,
) -> dict[tuple[str, int], Path]:
    """Train a config under each label's overrides, but nothing that has been trained below `root` before.

    A training that was stopped goes on from its last checkpoint. `done` and `failed` are called as trainings end, in
    the threads that wait for them. Returns the summary of each label and seed. Raises `ConfigError` where a team of
    that name was trained otherwise, or, after all others, where a training fails.
    """
    wanted = list(progress(config, teams, seeds, root))

    def one(case: tuple[str, int]) -> None:
        label, seed = case
        watch(f"{label}, seed {seed}")
        try:
            _finish(root, config, teams[label], label, seed)
        except ConfigError as error:
            failed(label, seed, error)
            raise
        done(label, seed, _summary(root, label, seed))

    each(one, wanted, jobs, watch)
    return {(label, seed): _summary(root, label, seed) for label in teams for seed in seeds}


def progress(
    config: Path, teams: Mapping[str, Sequence[str]], seeds: Sequence[int], root: Path
) -> dict[tuple[str, int], Progress]:
    """How far each label's and seed's training has come below `root`.

    Raises `ConfigError` where a team's settings are wrong, or one of that name was trained otherwise.
    """
    for label in teams:  # what is wrong with a team is told before another one is trained for hours
        with told_of(label):
            experiment(config_data(config, _overrides(teams[label], label, seeds[0]))[0])
    return {
        (label, seed): _progress(_begun(root, label, seed), config, _overrides(teams[label], label, seed))
        for seed in seeds
        for label in teams
    }


@contextmanager
def told_of(label: str) -> Iterator[None]:
    """Say of each wrong setting which team has it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError("\n".join(f"{label}: {line}" for line in str(error).splitlines())) from None


def _progress(begun: Run | None, config: Path, overrides: Sequence[str]) -> Progress:
    if begun is None:
        return Progress(0.0, 0.0)
    _check_same(begun, config, overrides)
    over = 1.0 if _ended(begun) else min(_TRAINED, begun.over())
    return Progress(over, checkpoint.read(begun.last_checkpoint()).counters["core_seconds"])


def _ended(begun: Run) -> bool:
    """Whether a training is over, and evaluated."""
    return begun.over() >= 1 and _is_of_the_last(begun, begun.summary_file())


def _is_of_the_last(begun: Run, summary: Path) -> bool:
    """Whether a summary is there, and of the last checkpoint: the training may have gone on after it."""
    last = begun.last_checkpoint().name
    return summary.is_file() and json.loads(summary.read_text(encoding="utf-8"))["checkpoint"] == last


def _finish(root: Path, config: Path, changes: Sequence[str], label: str, seed: int) -> None:
    """Train what is missing of one training."""
    begun = _begun(root, label, seed)
    if begun is None:
        run("train", str(config), *_overrides(changes, label, seed), "--runs", str(root))
    elif not _ended(begun):
        run("train", "--resume", str(begun.folder))


def evaluated(trained: Run, changes: Sequence[str]) -> Path:
    """The summary of a trained team under changes, which is evaluated if it was not before."""
    file = trained.summary_file(changes)
    if not _is_of_the_last(trained, file):
        run("evaluate", str(trained.folder), *changes)
    return file


def run(*arguments: str) -> None:
    """A marlcomm command in a process of its own; raises `ConfigError` with its last words if it fails.

    Raises `KeyboardInterrupt` where it was stopped, here or there.
    """
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
    if process.returncode in _STOPPED:
        raise KeyboardInterrupt
    if process.returncode:
        last_words = re.sub("^error: ", "", (complained or said).strip()[-2000:], flags=re.MULTILINE)
        raise ConfigError(f"{' '.join(arguments)} failed:\n{last_words}")


def each(
    one: Callable[[tuple[str, int]], None],
    cases: Sequence[tuple[str, int]],
    jobs: int,
    watch: Watch = lambda what: None,
) -> None:
    """Do all cases, some at a time, and raise in the end if some failed.

    Ctrl-C lets what runs save, and no more begin; a second one stops at once.
    """
    failures: list[ConfigError] = []
    stopped = threading.Event()

    def attempt(case: tuple[str, int]) -> None:
        if stopped.is_set():
            return
        try:
            one(case)
        except ConfigError as error:
            failures.append(error)
        except KeyboardInterrupt:
            stopped.set()  # before this thread takes another case
            raise

    pool = ThreadPoolExecutor(jobs)
    try:
        for _ in pool.map(attempt, cases):
            pass
    except KeyboardInterrupt:
        stopped.set()
        watch("finishing the updates, then saving; once more stops at once")
        _interrupt()
        try:
            pool.shutdown(cancel_futures=True)
        except KeyboardInterrupt:
            _interrupt()
            raise
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise ConfigError("\n".join(map(str, failures)))


def _interrupt() -> None:
    """Ctrl-C for every command that has not ended."""
    for process in tuple(_running):
        process.send_signal(signal.SIGINT)


def _overrides(changes: Sequence[str], label: str, seed: int) -> list[str]:
    return [*changes, f"seed={seed}", f"name={team_name(label, seed)}", *_THREADS]


def _check_same(trained: Run, config: Path, overrides: Sequence[str]) -> None:
    """Raise `ConfigError` where a run was not trained as it would be now."""
    then, now = trained.experiment().as_data(), experiment(config_data(config, overrides)[0]).as_data()
    for key, (old, new) in differences(then, now).items():
        raise ConfigError(
            f"{trained.folder} was trained with {key} = {old!r}, wanted {new!r}: give another --runs, or remove it"
        )


def team_name(label: str, seed: int) -> str:
    """Of the run and the result file of a training: its label, as far as that may stand in a file's name."""
    return f"{''.join(c if c.isalnum() else '_' for c in label)}-{seed}"


def _begun(root: Path, label: str, seed: int) -> Run | None:
    """The newest run of a team that has a checkpoint."""
    runs = [Run(file.parent) for file in sorted((root / team_name(label, seed)).glob("*/config.yaml"))]
    return next((run for run in reversed(runs) if run.checkpoints()), None)


def _summary(root: Path, label: str, seed: int) -> Path:
    """The evaluation of a team that is trained."""
    begun = _begun(root, label, seed)
    if begun is None or not _ended(begun):
        raise ConfigError(f"{label}, seed {seed}: its training left no summary below {root}")
    return begun.summary_file()
