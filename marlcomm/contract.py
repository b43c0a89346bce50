"""Contracts, checked: the promises that a thing of a table must keep, and a sentence for each that it breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

C = TypeVar("C")


@dataclass(frozen=True)
class Finding:
    """One promise of the contract.

    Attributes:
        promise: in a few words.
        problem: where it is broken, a sentence that says how.
        unchecked: where it, or a part of it, could not be checked here, the reason.
    """

    promise: str
    problem: str | None = None
    unchecked: str | None = None


class UncheckedError(Exception):
    """What a check raises where nothing broken was found, and not everything could be looked at."""


def examine(promises: Mapping[str, Callable[[C], str | None]], build: Callable[[], C]) -> list[Finding]:
    """Check every promise on a case that `build` makes anew; nothing is raised."""
    return [_examine(promise, check, build) for promise, check in promises.items()]


def _examine(promise: str, check: Callable[[C], str | None], build: Callable[[], C]) -> Finding:
    try:
        return Finding(promise, check(build()))
    except UncheckedError as reason:
        return Finding(promise, unchecked=str(reason))
    except Exception as error:  # a third party's thing may raise anything, and that is the finding
        return Finding(promise, f"raised {type(error).__name__}: {error}")
