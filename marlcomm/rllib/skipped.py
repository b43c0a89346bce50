"""Minibatches whose loss or gradient was no number: what is kept of them, and when a run stops because of them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from marlcomm.disk import reason
from marlcomm.rllib.errors import TrainingError
from marlcomm.rllib.learner import Skipped

if TYPE_CHECKING:
    from marlcomm.rllib.algorithm import TeamAlgorithm

_KEPT_FILES = 5
_BYTES_OF_A_FILE = 2**24

_log = logging.getLogger(__name__)


class NonFiniteGradientsError(TrainingError):
    """Too many updates in a row had a loss or gradients that are infinite or NaN."""


def keep_skipped(algorithm: TeamAlgorithm) -> None:
    """Keep what the last update skipped for inspection: a file of each learner's share, RUN/skipped/ROUND-....

    Raises `NonFiniteGradientsError` where `max_skipped` in a row were skipped.
    """
    answers = algorithm.learner_group.foreach_learner(lambda learner: learner.take_skipped())
    shares = [answer.get() for answer in answers]
    kept = [
        _keep(algorithm.folder / "skipped", algorithm.round, learner, skipped)
        for learner, taken in enumerate(shares)
        for skipped in taken
    ]
    last = shares[0][-1]
    if last.in_a_row >= algorithm.config.max_skipped:
        raise NonFiniteGradientsError(
            f"{last.in_a_row} updates in a row had a loss or gradients that are infinite or NaN (in "
            f"{', '.join(last.gradients) or 'the loss alone'}); none of them was applied. The last minibatch: {kept[0]}"
        )


def _keep(folder: Path, round_: int, learner: int, skipped: Skipped) -> Path:
    """Write one file, of a bounded size, and remove the oldest where there are too many."""
    file = folder / f"{round_:06d}-{skipped.minibatch:04d}-learner{learner}.safetensors"
    poisoned = {name: ~np.isfinite(values) for name, values in skipped.columns.items() if values.dtype.kind == "f"}
    about = {
        "round": round_,
        "minibatch": skipped.minibatch,
        "loss": repr(skipped.loss),
        "gradients": skipped.gradients,
        "columns": [name for name, where in poisoned.items() if where.any()],
    }
    rows = _rows(skipped.columns, poisoned)
    arrays = {name: np.ascontiguousarray(values[rows]) for name, values in skipped.columns.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, file, metadata={name: json.dumps(value) for name, value in about.items()})
        for old in sorted(folder.iterdir())[:-_KEPT_FILES]:
            old.unlink()
    except (OSError, SafetensorError) as error:  # no reason to end a run
        _log.warning("cannot keep a minibatch that was skipped in %s: %s", file, reason(error))
    return file


def _rows(columns: dict[str, np.ndarray], poisoned: dict[str, np.ndarray]) -> np.ndarray:
    """The rows that fit into a file: those with a number that is infinite or NaN, then the first ones."""
    count = len(next(iter(columns.values())))
    size = sum(values.nbytes for values in columns.values()) // count
    bad = np.zeros(count, dtype=bool)
    for where in poisoned.values():
        bad |= where.reshape(count, -1).any(1)
    return np.argsort(~bad, kind="stable")[: max(_BYTES_OF_A_FILE // max(size, 1), 1)]
