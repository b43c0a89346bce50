"""What an objective is: targets computed where episodes are sampled, and a loss on rows of whole worlds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from marlcomm.channels.base import Channel
from marlcomm.envs.base import NO_LABEL
from marlcomm.policies.records import Decision, Talk, each_talk
from marlcomm.policies.rollout import Rollout

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss to go down, and what to log about it (detached sums and means, name -> scalar)."""

    total: Tensor
    stats: dict[str, Tensor]


class Judge(Protocol):
    """Says what is gained by new decisions."""

    def gain(self, batch: Batch, decision: Decision) -> Tensor:
        """What a decision makes of the recorded rows [..., N] of agents, for each of them: it is to go up."""


class Objective(ABC):
    """Losses are sums over one denominator of the whole minibatch, wherever its rows are computed.

    Attributes:
        normalizes_advantages: whether a round's advantages are centred and divided by their standard deviation.
        sample_deviation: whether that is the one of a sample (n - 1), not of all there are (n).
    """

    normalizes_advantages: bool = False
    sample_deviation: bool = False

    def columns(self, rollout: Rollout) -> Batch:
        """The rows that a learner needs, worlds first: name -> [B, T, N, ...], [B, T] (running) or [B].

        Symbols, and who spoke, are those of the channel: where it is at the read-out, what each receiver read. An
        objective may add what its loss needs besides.
        """
        steps = torch.arange(rollout.acts.shape[1], device=rollout.lengths.device)
        batch = {
            "world": rollout.worlds,
            "episode": rollout.episodes,
            "observations": rollout.observations,
            "alive": rollout.alive[:, :-1],
            "spawned": rollout.spawned[:, :-1],
            "acts": rollout.acts,
            "running": steps < rollout.lengths.unsqueeze(1),
            "actions": rollout.actions,
            "log_probs": rollout.log_probs,
            "symbols": rollout.talk.quantised.symbols,
            "spoke": rollout.talk.quantised.spoke,
        }
        gates = {"gates": rollout.gates, "gate_choices": rollout.gate_choices}
        batch |= {name: values for name, values in gates.items() if values is not None}
        targets = self.targets(rollout)
        if targets is not None:
            batch["advantages"], batch["value_targets"] = targets
        return batch

    def targets(self, rollout: Rollout) -> tuple[Tensor, Tensor] | None:
        """Advantages and value targets, both [B, T, N], from a rollout with its values.

        None where rewards teach nothing.
        """
        return None

    def normalized_over(self, batch: Batch) -> Tensor:
        """Whose advantages, of rows [B, T, N], the moments for their normalisation are of: those of whoever acts."""
        return batch["acts"]

    @abstractmethod
    def gain(self, batch: Batch, decision: Decision) -> Tensor:
        """What a decision makes of the recorded actions, [..., N] for each agent: it is to go up.

        The batch may be of any rows [..., N] of agents.
        """

    @abstractmethod
    def loss(self, batch: Batch, decision: Decision, env_steps: int) -> Loss:
        """The policy's (and critic's) loss on rows [B, T, N] (see `columns`), at a point of the training."""


def taught(batch: Batch) -> Tensor:
    """Who is told at rows [..., N] which action is right: who acts there and has a label."""
    return batch["acts"] & (batch["labels"] != NO_LABEL)


def channel_loss(channel: Channel, talk: Talk, acts: Tensor, messages: Tensor, credit: Tensor | None = None) -> Loss:
    """The channel's weighted losses, averaged over the messages of the minibatch (their count is `messages`).

    Where the channel wants it, credit [B, T, N, K] says what its samples are worth (see `message_credit`).
    """
    weights = channel.loss_weights()
    sent = (talk.spoke & each_talk(acts, talk.spoke)).to(torch.float32)

    def mean(values: Tensor) -> Tensor:
        return (values * sent).sum() / messages.clamp(min=1)

    total = messages.new_zeros(())
    stats = {}
    if talk.search is not None and credit is not None:
        losses = channel.credited_losses(talk.search, credit)
        stats["channel/credit"] = mean(credit.std(-1, correction=0))
    else:
        losses = talk.losses
    for name, values in losses.items():
        value = mean(values)
        total = total + weights[name] * value
        stats[f"channel/{name}"] = value.detach()
    return Loss(total, stats)


def sent_messages(talk: Talk, acts: Tensor) -> Tensor | None:
    """What a channel absorbs of a learner's talk: finite messages [M, D] that were sent; None where none were kept."""
    if talk.messages is None:
        return None
    messages = talk.messages[talk.spoke & each_talk(acts, talk.spoke)].float()
    return messages[torch.isfinite(messages).all(-1)]
