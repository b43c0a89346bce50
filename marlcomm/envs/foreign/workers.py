"""Copies stepped in worker processes, which share one block of memory with the process that plays."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from marlcomm.envs.faults import NoAnswerError
from marlcomm.envs.foreign.copies import Block, Copies, Copy, CopyError, Facts
from marlcomm.envs.foreign.settings import PettingZooSettings

_PATIENCE = 5.0  # seconds that a worker is given to end by itself


class Local:
    """The copies in this process.

    Attributes:
        worker_seconds: see `Workers`.
    """

    worker_seconds = 0.0

    def __init__(self, settings: PettingZooSettings, first: Copy) -> None:
        facts, copies = first.facts, settings.copies
        self.block = Block.over(facts, copies, bytearray(Block.size(facts, copies)))
        self._copies = Copies(settings, self.block, range(copies), first)
        self.reset, self.step, self.render = self._copies.reset, self._copies.step, self._copies.render

    def close(self) -> None:
        """Nothing to end."""


class Workers:
    """The copies in P processes: copy c is one of process c mod P.

    Each is a fresh Python (nothing is forked: whoever plays has threads, and nothing of `__main__` runs twice). It ends
    when its connection does, that is with this object or this process, however that ends. The memory has no name, so
    nothing of it can be left behind.
    """

    def __init__(self, settings: PettingZooSettings, facts: Facts) -> None:
        self._settings = settings
        size = Block.size(facts, settings.copies)
        descriptor = _nameless_file(size)
        try:
            self.block = Block.over(facts, settings.copies, mmap.mmap(descriptor, size))
            count = min(settings.processes, settings.copies)
            self._workers = [_Worker(settings, facts, descriptor, rank, count) for rank in range(count)]
        finally:
            os.close(descriptor)
        self._finalizer = weakref.finalize(self, _end, self._workers)

    def reset(self, seeds: Sequence[int]) -> None:
        """See `Copies.reset`."""
        count = len(self._workers)
        self._all([("reset", list(seeds[rank::count])) for rank in range(count)])

    def step(self) -> None:
        """See `Copies.step`."""
        self._all([("step",)] * len(self._workers))

    def render(self, index: int) -> Any:
        """See `Copies.render`."""
        rank, count = index % len(self._workers), len(self._workers)
        self._workers[rank].tell(("render", index // count))
        return self._answers([self._workers[rank]])[0]

    @property
    def worker_seconds(self) -> float:
        """Processor time of all processes until each answered last, in core seconds."""
        return sum(worker.core_seconds for worker in self._workers)

    def _all(self, orders: Sequence[tuple[Any, ...]]) -> None:
        for worker, order in zip(self._workers, orders, strict=True):
            worker.tell(order)
        self._answers(self._workers)

    def _answers(self, workers: list[_Worker]) -> list[Any]:
        """What all answer; raises `CopyError` with the traceback of the first one that failed, and ends all."""
        answers = self._heard(workers)
        failures = [answer for failed, answer in answers if failed]
        if failures:
            self.close()
            trace, copy = failures[0]
            raise CopyError(f"{trace}\n(in a worker process)", copy)
        return [answer for _, answer in answers]

    def _heard(self, workers: list[_Worker]) -> list[tuple[bool, Any]]:
        answers: list[tuple[bool, Any]] = []
        try:
            answers.extend(worker.hear() for worker in workers)  # also keeps those before the one that is silent
        except NoAnswerError as error:
            silent = [worker.copies for worker in workers[len(answers) :] if not worker.has_answered]
            copies = sorted(copy for some in silent for copy in some)
            only = copies[0] if len(copies) == 1 else None
            said = f"{error} from the worker process of copies {', '.join(map(str, copies))} of {self._settings.maker}"
            raise CopyError(said, only) from error
        return answers

    def close(self) -> None:
        """End all processes."""
        self._finalizer()


class _Worker:
    """One process, and the line to it.

    Attributes:
        copies: the numbers of those that it steps.
        core_seconds: its processor time until it answered last, its start included.
    """

    def __init__(self, settings: PettingZooSettings, facts: Facts, descriptor: int, rank: int, count: int) -> None:
        self.copies = range(rank, settings.copies, count)
        self.core_seconds = 0.0
        ours, theirs = socket.socketpair()
        self._line = Connection(ours.detach())
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "marlcomm.envs.foreign.worker", str(theirs.fileno()), str(descriptor)],
                pass_fds=(theirs.fileno(), descriptor),
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
            )
        self.tell((settings.model_dump(), facts, rank, count))

    def tell(self, order: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # its end is noticed when it is to answer
            self._line.send(order)

    def hear(self) -> tuple[bool, Any]:
        """Whether it failed, and its answer, or a traceback and the copy's number."""
        try:
            failed, answer, self.core_seconds = self._line.recv()
        except (EOFError, OSError):
            return True, (f"a worker process ended with exit code {self._process.wait()}", None)
        return failed, answer

    @property
    def has_answered(self) -> bool:
        return self._line.poll()

    def hang_up(self) -> None:
        self._line.close()

    def wait(self) -> None:
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.hang_up()
    for worker in workers:
        worker.wait()


def _nameless_file(size: int) -> int:
    """A descriptor of that much memory to share, which is freed when the last process has closed it."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("marlcomm")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
