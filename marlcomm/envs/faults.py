"""What is told of a world that fails, does not answer, or returns what is no number."""

from __future__ import annotations

import math
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType

import torch
from torch import Tensor

from marlcomm.envs.base import TeamStep
from marlcomm.registry import ConfigError


class WorldError(RuntimeError):
    """A world failed; the message says which one, when, and holds its traceback."""


class NoAnswerError(RuntimeError):
    """Who plays was interrupted, because it took too long."""


@contextmanager
def told_where(name: str, worlds: Tensor, episodes: Tensor, time: int) -> Iterator[None]:
    """Raise `WorldError` in place of what a world raises in step `time` of episodes [B] of worlds [B]; 0: its reset."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # a world may raise anything
        copy = getattr(error, "copy", None)  # of worlds that are stepped one by one, which it was
        some = slice(None) if copy is None else slice(copy, copy + 1)
        trace = "".join(traceback.format_exception(error)).rstrip()
        where = _where(name, worlds[some], episodes[some], time)
        raise WorldError(f"{where}: {type(error).__name__}: {str(error).partition(chr(10))[0]}\n{trace}") from error


def check_numbers(name: str, now: TeamStep, worlds: Tensor, episodes: Tensor, time: int) -> None:
    """Raise `WorldError` where an observation or reward is infinite or NaN, before anybody learns from it."""
    # One sum tells that all is well; it may overflow where each number is finite, so it is no proof of the contrary.
    if math.isfinite(float(now.observations.sum() + now.rewards.sum())):
        return
    for what, values in (("observation", now.observations), ("reward", now.rewards)):
        poisoned = (~torch.isfinite(values)).nonzero()
        if len(poisoned):
            world, slot, *element = poisoned[0].tolist()
            number = float(values[world, slot, *element])
            which = f"observation {element[0]}" if element else "the reward"
            where = _where(name, worlds[world : world + 1], episodes[world : world + 1], time)
            raise WorldError(
                f"{where}: {which} of agent slot {slot} is {number} ({len(poisoned)} numbers of {what}s in this step)"
            )


def _where(name: str, worlds: Tensor, episodes: Tensor, time: int) -> str:
    when = f"in step {time}" if time else "at its reset"
    return f"{name}, world{_some(worlds)}, episode{_some(episodes)}, {when}"


def _some(numbers: Tensor) -> str:
    """One number, or how far several reach."""
    least, most = int(numbers.min()), int(numbers.max())
    return f" {least}" if least == most else f"s {least} to {most}"


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, with `NoAnswerError`, wherever it is then.

    A signal does it, so it works in the main thread alone, and where Python is reached: not inside of a library that
    never returns. An alarm that somebody else has set rings as well, and alone if it rings first.
    """
    others, _ = signal.getitimer(signal.ITIMER_REAL)
    if threading.current_thread() is not threading.main_thread() or 0 < others < seconds:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise NoAnswerError(f"no answer within {seconds:g} s (resources.sample_timeout)")

    clock, previous = monotonic(), signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if others:
            signal.setitimer(signal.ITIMER_REAL, max(others - (monotonic() - clock), 1e-6))
