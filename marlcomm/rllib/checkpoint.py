"""Saving an algorithm, and going on exactly.

A checkpoint holds weights and buffers of the policy and its channel (schedules included), the optimiser's state, the
counters of rounds and env steps, and the replay where there is one. Runners keep nothing, worlds begin anew every round
and all noise is keyed, so that is everything: a run that continues from it is the run that never stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from marlcomm import checkpoint
from marlcomm.registry import ConfigError
from marlcomm.rllib.algorithm import TeamAlgorithm
from marlcomm.rllib.compat import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID

_COMPONENTS = [f"{COMPONENT_LEARNER}/{name}" for name in (COMPONENT_RL_MODULE, checkpoint.OPTIMIZER)]


def save(algorithm: TeamAlgorithm, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint of an algorithm, with the settings of its experiment (`Experiment.as_data`) where it has one.

    They are what a resumed run's settings are compared with.
    """
    learner = algorithm.learner_group.get_state(components=_COMPONENTS)[COMPONENT_LEARNER]
    checkpoint.write(
        folder,
        algorithm.counters() | {"training_iteration": algorithm.training_iteration},
        settings,
        weights=dict(learner[COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]),
        optimizer=learner[checkpoint.OPTIMIZER],
        **algorithm.parts(algorithm.last_checkpoint),
    )
    algorithm.last_checkpoint = folder


def restore(algorithm: TeamAlgorithm, folder: Path) -> None:
    """Continue from a checkpoint: weights, optimiser and counters; runners get the weights too."""
    stored = checkpoint.read(folder)
    counters = dict(stored.counters)
    iteration = counters.pop("training_iteration")
    weights = stored.read(checkpoint.WEIGHTS)
    known = algorithm.learner_group.get_weights()[DEFAULT_MODULE_ID]
    strange = sorted(  # RLlib would leave these as they are, or raise
        name for name in weights.keys() | known.keys() if _shape(weights, name) != _shape(known, name)
    )
    if strange:
        raise ConfigError(f"checkpoint: {folder} is of another policy or channel: they differ in {', '.join(strange)}")
    learner = {
        COMPONENT_RL_MODULE: {DEFAULT_MODULE_ID: weights},
        checkpoint.OPTIMIZER: stored.read(checkpoint.OPTIMIZER),
    }
    algorithm.set_state(
        {"learner_group": {COMPONENT_LEARNER: learner}, "training_iteration": iteration, "team": counters}
    )
    algorithm.load_parts(stored)
    algorithm.last_checkpoint = folder


def _shape(weights: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return np.shape(weights[name]) if name in weights else None
