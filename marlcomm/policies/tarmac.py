"""TarMAC (Das et al. 2019): a message is a key and a value, and each receiver attends to the keys that fit its query.

Departures from the published code (as in MAGIC's `tar_comm.py`): nobody attends to its own message, which it knows
without hearing it; scores are divided by the root of the key's width, as in the paper, not of the hidden state's;
memory is wiped where a slot gets a new agent. Whoever hears nobody hears zeros (there too; the original's attention
would be uniform over those who cannot be heard).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.memory import AgentLSTM, Memory
from marlcomm.policies.settings import TarMACSettings

_NEVER = -1e9  # the score of who cannot be heard; finite, so that who hears nobody has no gradient, and not a NaN


class TarMAC(TeamPolicy):
    """On the wire is [key, value], D numbers, through the channel; queries stay with their agents.

    Keys, values and queries are linear maps of the hidden state of the step before, so a step's talk is of what was
    seen one step earlier. After each round but the last, an agent talks on from what it then thinks, the paper's h' =
    tanh(linear([heard, thought])). The LSTM runs once a step, on what was seen and what was heard in the last round.
    """

    settings: TarMACSettings

    def __init__(self, spec: TeamSpec, settings: TarMACSettings, channel: Channel) -> None:
        super().__init__(spec, settings, channel)
        hidden, value = settings.hidden_size, settings.value_size
        self.rounds = settings.rounds
        self.encoder = self.input_layer(hidden)
        self.to_message = nn.Linear(hidden, settings.message_width)
        self.to_query = nn.Linear(hidden, settings.key_size)
        self.attention = TargetedAttention()
        self.from_heard = nn.Linear(value, hidden)
        self.rethink = nn.Linear(value + hidden, hidden) if self.rounds > 1 else None
        self.core = AgentLSTM(hidden, hidden)
        self.action_head = self.action_layer(hidden)
        self.value_head = nn.Linear(hidden, 1)

    def see(self, observations: Tensor) -> Tensor:
        features: Tensor = self.encoder(observations)
        return features

    def begin(self, worlds: int) -> Memory:
        return self.core.begin(worlds, self.spec.num_agents)

    def say(self, features: Tensor, memory: Memory) -> Tensor:
        message: Tensor = self.to_message(_thought(memory))
        return message

    def gather(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor) -> Tensor:
        keys, values = received.split([self.settings.key_size, self.settings.value_size], dim=-1)
        heard, _ = self.attention(self.to_query(_thought(memory)), keys, values, audible)
        mixture: Tensor = heard
        return mixture

    def consider(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor) -> Memory:
        assert self.rethink is not None
        heard = self.gather(features, memory, received, audible)
        thought = torch.tanh(self.rethink(torch.cat([heard, _thought(memory)], dim=-1)))
        return memory | {"thought": thought}

    def hear(
        self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor
    ) -> tuple[Tensor, Memory]:
        return self.take(features, memory, self.gather(features, memory, received, audible), alive)

    def take(self, features: Tensor, memory: Memory, read: Tensor, alive: Tensor) -> tuple[Tensor, Memory]:
        memory = self.core(features + self.from_heard(read), memory, alive)  # what was thought between rounds is over
        return memory["hidden"], memory

    def decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.action_head(states), None, self.value_head(states).squeeze(-1)


def _thought(memory: Memory) -> Tensor:
    """What an agent talks from, [B, N, H]."""
    return memory["thought"] if "thought" in memory else memory["hidden"]


class TargetedAttention(nn.Module):
    """softmax(query key / sqrt(K)) over those who are heard; nothing of anybody where nobody is.

    A module of its own, so that a forward hook sees who attends to whom.
    """

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
        """What each receiver hears, [B, N, W], and its weights of the senders, [B, N, N].

        Args:
            queries: [B, N, K], of the receivers.
            keys: [B, N, K], of the senders.
            values: [B, N, W], of the senders.
            audible: [B, N, N] bool, whether receiver (axis 1) hears sender (axis 2).
        """
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        weights = torch.softmax(scores.masked_fill(~audible, _NEVER), dim=-1) * audible
        return weights @ values, weights
