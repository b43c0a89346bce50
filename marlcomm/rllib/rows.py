"""Rows on their way from runners to learners: joined, normalised, ordered into minibatches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.objectives.base import Batch, taught
from marlcomm.policies.base import each_talk


def join(batches: Sequence[dict[str, np.ndarray]]) -> Batch:
    """The rows of all runners, in the order of their worlds."""
    return {name: torch.from_numpy(_concatenated([batch[name] for batch in batches])) for name in batches[0]}


def _concatenated(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array that may be written to: what Ray hands over is read-only."""
    return parts[0] if len(parts) == 1 and parts[0].flags.writeable else np.concatenate(parts)


def normalize_advantages(batch: Batch, over: Tensor | None = None, sample: bool = False) -> None:
    """Centre and scale advantages in place by their moments over all runners' rows, `over` the acting agents or others.

    The standard deviation is that of a `sample`, or of all there are.
    """
    counted = batch["advantages"][batch["acts"] if over is None else over].double()
    number = len(counted)
    if not number:  # nobody lived
        return
    mean = float(counted.sum()) / number
    variance = max(float(counted.square().sum()) / number - mean**2, 0.0)
    deviation = (variance * number / max(number - 1, 1) if sample else variance) ** 0.5
    batch["advantages"] = (batch["advantages"] - mean) / (deviation + 1e-8)


def value_moments(batch: Batch) -> tuple[float, float, float]:
    """Number, sum and sum of squares of the value targets of all agents that acted."""
    targets = batch["value_targets"][batch["acts"]].double()
    return float(len(targets)), float(targets.sum()), float(targets.square().sum())


def epoch_rows(batch: Batch, seed: int, round_: int, epoch: int, minibatches: int, learners: int) -> Batch:
    """The rows of one epoch, ordered so that one learner and several see the same minibatches.

    Worlds are permuted by a key of (seed, round, epoch) and cut into minibatches. Learners cut the rows they are given
    into contiguous shards, and each shard into contiguous minibatches; so learner l gets the l-th part of every
    minibatch. Each row also carries the denominators of its minibatch: acting agents, messages, env steps, and labels
    where there are any.
    """
    worlds = len(batch["world"])
    groups = noise.permutation(worlds, seed, "minibatches", round_, epoch).view(minibatches, learners, -1)
    rows = groups.transpose(0, 1).reshape(-1)
    ordered = {name: values[rows] for name, values in batch.items()}
    for name, sums in _row_sums(batch).items():
        per_minibatch = sums[groups].sum((1, 2))
        ordered[name] = per_minibatch.repeat_interleave(groups.shape[2]).repeat(learners)
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
