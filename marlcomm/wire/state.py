"""What is stored beside a checkpoint: plain JSON data, known by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from marlcomm.wire.bits import Int, WireError

State = dict[str, Any]


def digest(state: State) -> str:
    """BLAKE2b of the canonical JSON (sorted keys, no spaces), as 32 hexadecimal digits."""
    text = json.dumps(state, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@contextmanager
def rebuilding(what: str) -> Iterator[None]:
    """Whatever is wrong with a state is one `WireError`."""
    try:
        yield
    except WireError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WireError(f"this is not the state of {what}: {type(error).__name__}: {error}") from None


def integers(numbers: Sequence[Any]) -> Int:
    """A list of integers as an array; raises `TypeError` for anything else (true and 1.0 are no integers)."""
    if not isinstance(numbers, list) or any(type(number) is not int for number in numbers):
        raise TypeError("wanted a list of integers")
    return np.array(numbers, np.int64)
