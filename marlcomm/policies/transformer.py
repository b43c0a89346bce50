"""A transformer policy: each agent runs its own stack over its own state and the vectors that it received."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.envs.base import TeamSpec
from marlcomm.policies.base import TeamPolicy
from marlcomm.policies.memory import AgentLSTM, Memory
from marlcomm.policies.settings import TransformerSettings

_MESSAGE_GAIN = 2.0
_SENDER_SCALE = 0.1
_NEVER = -1e9  # the score of who cannot be heard


class Transformer(TeamPolicy):
    """The message is a linear map of memory and present observation, so talk has no delay.

    Receiver i's stack sees one token of its own state and one for each vector it received. Further layers mix the
    tokens inside i's stack only: attending to what *others* heard would be talk that nobody counts. Tokens do not
    tell who spoke, unless the policy `knows_senders`.

    With the channel at the read-out, what the last layer's heads attend to of the heard tokens is given to the
    bottleneck. Nothing else may tell i's own token of the others: it hears them in that layer only, and how much
    attention it pays to itself, which depends on the others' keys, is not in the mixture.
    """

    settings: TransformerSettings

    def __init__(self, spec: TeamSpec, settings: TransformerSettings, channel: Channel) -> None:
        super().__init__(spec, settings, channel)
        hidden, width = settings.hidden_size, settings.width
        own = 2 * hidden if settings.recurrent else hidden
        self.encoder = nn.Sequential(self.input_layer(hidden), nn.ReLU())
        self.to_message = nn.Linear(own, settings.message_width)
        # First messages should differ by about a quantiser's step: less says nothing, more costs bits for ever.
        nn.init.orthogonal_(self.to_message.weight, gain=_MESSAGE_GAIN)
        nn.init.zeros_(self.to_message.bias)
        self.own_token = nn.Linear(own, width)
        # A nonlinear map of each vector before they are mixed: a mean of linear ones would forget who said what.
        self.heard_token = nn.Sequential(nn.Linear(settings.message_width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.sender_token = self._names(spec.num_agents, width) if settings.knows_senders else None
        self.layers = nn.ModuleList(Layer(width, settings.heads) for _ in range(settings.layers))
        joined = hidden + width
        self.core = AgentLSTM(joined, hidden) if settings.recurrent else None
        self.feed_forward = None if settings.recurrent else nn.Sequential(nn.Linear(joined, hidden), nn.ReLU())
        self.action_head = self.action_layer(hidden)
        self.value_head = nn.Linear(hidden, 1)

    @staticmethod
    def _names(senders: int, width: int) -> nn.Parameter:
        """First vectors [N, W] that tell senders apart, about as large as what the first messages make of a token.

        Layers normalise tokens: of larger names, what is said would be a small part, and hardly be learned from.
        """
        return nn.Parameter(_SENDER_SCALE * torch.randn(senders, width))

    def see(self, observations: Tensor) -> Tensor:
        features: Tensor = self.encoder(observations)
        return features

    def begin(self, worlds: int) -> Memory:
        return {} if self.core is None else self.core.begin(worlds, self.spec.num_agents)

    def _own(self, features: Tensor, memory: Memory) -> Tensor:
        return torch.cat([memory["hidden"], features], dim=-1) if self.core is not None else features

    def _heard(self, received: Tensor) -> Tensor:
        """Tokens [B, 1, N, W] of what was received [B, N, D]: one set, the same for every receiver."""
        heard: Tensor = self.heard_token(received)
        return (heard if self.sender_token is None else heard + self.sender_token).unsqueeze(1)

    def say(self, features: Tensor, memory: Memory) -> Tensor:
        message: Tensor = self.to_message(self._own(features, memory))
        return message

    def hear(
        self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor
    ) -> tuple[Tensor, Memory]:
        own = self.own_token(self._own(features, memory))
        heard = self._heard(received)
        *mixing, last = (cast(Layer, layer) for layer in self.layers)
        for layer in mixing:
            own, heard = layer(own, heard, audible), layer.update_heard(own, heard, audible)
        return self._remember(features, last(own, heard, audible), memory, alive)

    def gather(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor) -> Tensor:
        own = self.own_token(self._own(features, memory))
        heard = self._heard(received)
        *mixing, last = (cast(Layer, layer) for layer in self.layers)
        for layer in mixing:
            own, heard = layer.join(own), layer.update_heard(own, heard, audible)
        return last.gather(own, heard, audible)

    def take(self, features: Tensor, memory: Memory, read: Tensor, alive: Tensor) -> tuple[Tensor, Memory]:
        own = self.own_token(self._own(features, memory))
        *mixing, last = (cast(Layer, layer) for layer in self.layers)
        for layer in mixing:
            own = layer.join(own)
        return self._remember(features, last.join(own, read), memory, alive)

    def _remember(self, features: Tensor, own: Tensor, memory: Memory, alive: Tensor) -> tuple[Tensor, Memory]:
        """States and new memory after what was seen and the receivers' final tokens [B, N, W]."""
        joined = torch.cat([features, own], dim=-1)
        if self.core is None:
            assert self.feed_forward is not None
            return self.feed_forward(joined), {}
        memory = self.core(joined, memory, alive)
        return memory["hidden"], memory

    def decide(self, states: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        return self.action_head(states), None, self.value_head(states).squeeze(-1)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward over the tokens of each receiver's stack.

    Shapes: own [B, N, W], the receiver's token; heard [B, R, N, W], its tokens of the senders, R = 1 where all
    receivers still share them; audible [B, N, N].
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )

    def forward(self, own: Tensor, heard: Tensor, audible: Tensor) -> Tensor:
        """The receiver's new token [B, N, W]."""
        new: Tensor = self._update(own.unsqueeze(2), own, heard, audible).squeeze(2)
        return new

    def update_heard(self, own: Tensor, heard: Tensor, audible: Tensor) -> Tensor:
        """New tokens [B, N, N, W] of the senders, now different in every receiver's stack."""
        tokens = heard.expand(-1, own.shape[1], -1, -1)
        return self._update(tokens, own, heard, audible)

    def gather(self, own: Tensor, heard: Tensor, audible: Tensor) -> Tensor:
        """What the heads of each receiver attend to of the heard tokens alone, side by side [B, N, W]; 0 if of none."""
        queries = self._split(self.query(self.norm(own)))  # [B, N, h, W/h]
        keys, values = map(self._split, self.key_value(self.norm(heard)).chunk(2, dim=-1))
        scores = torch.einsum("bnhw,bnshw->bnhs", queries, keys) / math.sqrt(queries.shape[-1])
        audible = audible.unsqueeze(2)
        # Finite, so that who hears nobody has no gradient, and not a NaN.
        weights = torch.softmax(scores.masked_fill(~audible, _NEVER), dim=-1) * audible
        return torch.einsum("bnhs,bnshw->bnhw", weights, values).flatten(-2)

    def join(self, own: Tensor, read: Tensor | float = 0.0) -> Tensor:
        """The receiver's new token [B, N, W] after what it has read; without it, as if it had heard nobody."""
        own_value = self.key_value(self.norm(own)).chunk(2, dim=-1)[1]
        attended: Tensor = own + self.output(own_value + read)
        new: Tensor = attended + self.feed_forward(attended)
        return new

    def _update(self, tokens: Tensor, own: Tensor, heard: Tensor, audible: Tensor) -> Tensor:
        """Tokens [B, N, Q, W] of each stack after attending over own and heard tokens of the same stack."""
        queries = self._split(self.query(self.norm(tokens)))  # [B, N, Q, h, W/h]
        own_key, own_value = map(self._split, self.key_value(self.norm(own)).chunk(2, dim=-1))
        keys, values = map(self._split, self.key_value(self.norm(heard)).chunk(2, dim=-1))
        scale = 1 / math.sqrt(queries.shape[-1])
        to_heard = torch.einsum("bnqhw,bnshw->bnqhs", queries, keys)  # n is 1 in shared keys
        to_own = torch.einsum("bnqhw,bnhw->bnqh", queries, own_key)
        to_heard = to_heard.masked_fill(~audible[:, :, None, None, :], -torch.inf)
        weights = torch.softmax(torch.cat([to_own.unsqueeze(-1), to_heard], dim=-1) * scale, dim=-1)
        mixed = torch.einsum("bnqhs,bnshw->bnqhw", weights[..., 1:], values)
        mixed = mixed + weights[..., :1] * own_value.unsqueeze(2)
        attended: Tensor = tokens + self.output(mixed.flatten(-2))
        new: Tensor = attended + self.feed_forward(attended)
        return new

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1)
