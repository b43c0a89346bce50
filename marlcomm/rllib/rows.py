"""Rows as learners take them: joined, normalised, ordered into minibatches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.objectives.base import Batch, taught
from marlcomm.policies.records import each_talk

ADVANTAGES, VALUE_TARGETS = "advantages", "value_targets"
Moments = tuple[float, float, float]  # number, sum and sum of squares


def join(batches: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    """The rows of all runners, in the order in which they are given."""
    return {name: torch.from_numpy(_concatenated([batch[name] for batch in batches])) for name in batches[0]}


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array that may be written to: what Ray hands over is read-only."""
    return parts[0] if len(parts) == 1 and parts[0].flags.writeable else np.concatenate(parts)


def moments(values: Tensor) -> Moments:
    """The moments of values [...]; those of several parts add up."""
    counted = values.double()
    return float(counted.numel()), float(counted.sum()), float(counted.square().sum())


def add_moments(parts: Sequence[Moments]) -> Moments:
    """The moments of all parts together."""
    number, total, squares = (sum(part) for part in zip(*parts, strict=True))
    return number, total, squares


def round_moments(batch: Batch, over: Tensor) -> dict[str, Moments]:
    """The moments of advantages, `over` agents [B, T, N], and of value targets."""
    return {ADVANTAGES: moments(batch[ADVANTAGES][over]), VALUE_TARGETS: value_moments(batch)}


def value_moments(batch: Batch) -> Moments:
    """The moments of the value targets of all agents that acted."""
    return moments(batch["value_targets"][batch["acts"]])


def standardize_advantages(batch: Batch, of: Moments, sample: bool = False) -> None:
    """Centre and scale advantages in place by moments; the standard deviation is that of a `sample`, or of all."""
    number, total, squares = of
    if not number:  # nobody lived
        return
    mean = total / number
    variance = max(squares / number - mean**2, 0.0)
    deviation = (variance * number / max(number - 1, 1) if sample else variance) ** 0.5
    batch["advantages"] = (batch["advantages"] - mean) / (deviation + 1e-8)


def epoch_rows(
    batch: Batch, seed: int, round_: int, epoch: int, minibatches: int, learners: int, learner: int = 0
) -> Batch:
    """The rows that a learner takes in one epoch, so that one learner and several see the same minibatches.

    Worlds are permuted by a key of (seed, round, epoch) and cut into minibatches, each of which is cut into as many
    equal parts as there are learners; learner l takes the l-th part of every minibatch, one after the other. Each row
    also carries the denominators of its whole minibatch: acting agents, messages, env steps, and labels where there
    are any.
    """
    worlds = len(batch["world"])
    groups = noise.permutation(worlds, seed, "minibatches", round_, epoch).view(minibatches, learners, -1)
    rows = groups[:, learner].reshape(-1)
    ordered = {name: values[rows] for name, values in batch.items()}
    for name, sums in _row_sums(batch).items():
        ordered[name] = sums[groups].sum((1, 2)).repeat_interleave(groups.shape[2])
    return ordered


def _row_sums(batch: Batch) -> Batch:
    acts = batch["acts"]
    sums = {
        "agent_steps": acts.sum((1, 2)).float(),
        "messages": (batch["spoke"] & each_talk(acts, batch["spoke"])).sum((1, 2)).float(),
        "env_steps": batch["running"].sum(1).float(),
    }
    return sums | {"label_count": taught(batch).sum((1, 2)).float()} if "labels" in batch else sums


def minibatches(ordered: Batch, count: int) -> Iterator[Batch]:
    """The minibatches of one learner's rows, for training loops without RLlib."""
    size = len(ordered["world"]) // count
    for index in range(count):
        yield {name: values[index * size : (index + 1) * size] for name, values in ordered.items()}
