"""A training run: rounds until the goal, saved on the way, stopped cleanly when asked."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from marlcomm import disk
from marlcomm.config import Experiment
from marlcomm.registry import ConfigError
from marlcomm.runs import Run

if TYPE_CHECKING:
    from marlcomm.rllib.algorithm import TeamAlgorithm

_LOCK = "lock"  # a file of the run's folder
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 0}


class Stop(Protocol):
    """A wish to stop after the update."""

    @property
    def requested(self) -> bool: ...


class Interruption:
    """The first Ctrl-C or SIGTERM asks to stop after the update; the second stops at once.

    Install it before Ray starts, and call `install` again after: Ray sets handlers of its own.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.getsignal(number) for number in _EXIT_CODES}
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def install(self) -> None:
        for number in _EXIT_CODES:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if sys.stdout.isatty():
                os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the bar hid the cursor
            os._exit(_EXIT_CODES[signal.Signals(number)])
        self._signal = signal.Signals(number)
        self._announce()

    @property
    def requested(self) -> bool:
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        return 0 if self._signal is None else _EXIT_CODES[self._signal]


@contextmanager
def held(run: Run) -> Iterator[None]:
    """Nobody else trains the run meanwhile: both would save, and each would remove what the other is writing.

    Raises `ConfigError` where somebody does, and `DiskError` where the run's folder cannot be written. On disks that
    know no locks, nobody is kept out.
    """
    try:
        lock = (run.folder / _LOCK).open("w")
    except OSError as error:
        raise disk.DiskError(f"cannot write {run.folder}: {disk.reason(error)}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"run: another process is training {run.folder}: wait for its end, or stop it") from None
        except OSError:
            pass
        yield


@contextmanager
def built(run: Run, settings: Experiment, resume: bool) -> Iterator[TeamAlgorithm]:
    """The algorithm of a run, at its beginning or at its last checkpoint; stopped in the end."""
    from marlcomm.algorithms.build import algorithm_config
    from marlcomm.rllib.checkpoint import restore

    with held(run):
        if resume:
            folder = run.last_checkpoint()
            settings = replace(settings, init_from=None)  # what it began with is in the checkpoint
        algorithm: TeamAlgorithm = algorithm_config(settings).logging(log_dir=run.folder).build_algo()
        try:
            if resume:
                restore(algorithm, folder)
            yield algorithm
        finally:
            algorithm.stop()


def rounds(algorithm: TeamAlgorithm, run: Run, settings: Experiment, interruption: Stop) -> Iterator[dict[str, float]]:
    """Train until env steps or minutes are reached, or a stop is requested; yields the figures of each round.

    Saves before the first one, where a checkpoint is due and at the end, whichever end that is. Raises
    `LearnerLostError` where a learner dies, and `DiskError` where what is to be saved cannot be written.
    """
    from marlcomm.rllib.recovery import learners_lost_told

    with learners_lost_told():
        yield from _rounds(algorithm, run, settings, interruption)


def _rounds(algorithm: TeamAlgorithm, run: Run, settings: Experiment, interruption: Stop) -> Iterator[dict[str, float]]:
    saves = _Saves(algorithm, run, settings)
    while settings.run.done(algorithm.env_steps, algorithm.seconds) < 1 and not interruption.requested:
        algorithm.train()
        if saves.due:
            saves.save()
        yield algorithm.figures
    if algorithm.round != saves.last:
        saves.save()


class _Saves:
    """Saves of a run; from just before the first of them, settings that were changed when it went on are the run's.

    Attributes:
        last: the last round that is saved.
    """

    def __init__(self, algorithm: TeamAlgorithm, run: Run, settings: Experiment) -> None:
        self._algorithm, self._run, self._settings = algorithm, run, settings
        self._otherwise = run.is_told_otherwise(settings)
        self.last, self._seconds = algorithm.round, algorithm.seconds
        if not run.checkpoints():
            self.save()

    @property
    def due(self) -> bool:
        """Whether so many rounds, or minutes since the last one, ask for a checkpoint."""
        run = self._settings.run
        by_rounds = run.checkpoint_every is not None and self._algorithm.round % run.checkpoint_every == 0
        since = (self._algorithm.seconds - self._seconds) / 60
        return by_rounds or (run.checkpoint_minutes is not None and since >= run.checkpoint_minutes)

    def save(self) -> None:
        from marlcomm.rllib.checkpoint import save

        if self._otherwise:
            self._run.keep_changes(self._settings, sys.argv[1:])
            self._otherwise = False
        save(self._algorithm, self._run.checkpoint(self._algorithm.round), self._settings.as_data())
        self._run.drop_old_checkpoints()
        self.last, self._seconds = self._algorithm.round, self._algorithm.seconds
