"""A training in a process of its own, which is started anew from its last checkpoint where it dies or fails."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from marlcomm.analysis.trainings import PROGRAM
from marlcomm.cli.shell import say_aside

if TYPE_CHECKING:
    from marlcomm.runs import Run

_FINAL = (0, 2, 130)  # done or stopped, a wrong setting, Ctrl-C
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def train_with_restarts(run: Run, options: Sequence[str], restarts: int) -> int:
    """Train a run to its end, with options of ``marlcomm train``; returns the exit code.

    Wherever the process ends otherwise than it should, killed from outside included, another one continues the run
    from its last checkpoint: so many times at most.
    """
    for restart in range(restarts + 1):
        code, stopped = session(["train", "--resume", str(run.folder), *options])
        if code in _FINAL or stopped:
            break
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if restart < restarts:
            say_aside(f"the training {how}: restart {restart + 1} of {restarts}")
        else:
            say_aside(f"the training {how}, and {restarts} restarts are over")
    return code if code >= 0 else 128 - code


def session(arguments: Sequence[str]) -> tuple[int, bool]:
    """A marlcomm command in a process of its own: its exit code (-n: killed by signal n), and whether it had to stop.

    Ctrl-C and SIGTERM are handed on, each once: the process has a group of its own, which a terminal does not reach.
    """
    with subprocess.Popen([*PROGRAM, *arguments], process_group=0) as process, _handed_on(process) as received:
        return process.wait(), bool(received)


@contextmanager
def _handed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Hand signals on to a process; yields the list of those that came."""
    received: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.send_signal(number)

    previous = {number: signal.signal(number, hand_on) for number in _SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
