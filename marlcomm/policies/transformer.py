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
        self.slot_queries = nn.Parameter(torch.randn(spec.num_agents, width)) if settings.slot_bias else None
        self.slot_keys = nn.Parameter(torch.randn(spec.num_agents, width)) if settings.slot_bias else None
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
        """Tokens [B, N, W] of what was received [B, N, D], the same for every receiver."""
        heard: Tensor = self.heard_token(received)
        return heard if self.sender_token is None else heard + self.sender_token

    def say(self, features: Tensor, memory: Memory) -> Tensor:
        message: Tensor = self.to_message(self._own(features, memory))
        return message

    def hear(
        self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor, alive: Tensor
    ) -> tuple[Tensor, Memory]:
        own, heard = self.own_token(self._own(features, memory)), self._heard(received)
        *mixing, last = (cast(Layer, layer) for layer in self.layers)
        if not mixing:  # all receivers share what they heard
            itself = torch.eye(own.shape[1], dtype=torch.bool, device=own.device).expand(len(own), -1, -1)
            tokens, seen = torch.cat([own, heard], dim=1), torch.cat([itself, audible], dim=-1)
            return self._remember(features, last(tokens, own.shape[1], seen, self._bias()), memory, alive)
        stacks, seen = stacks_of(own, heard, audible)
        bias = self._bias_of_stacks(len(own))
        for layer in mixing:
            stacks = layer(stacks, stacks.shape[1], seen, bias)
        return self._remember(features, last(stacks, 1, seen, bias).view_as(own), memory, alive)

    def _slot_bias(self) -> Tensor | None:
        """What is added to receivers' scores for senders, [N, h, N], by who both are; None: nothing."""
        if self.slot_queries is None or self.slot_keys is None:
            return None
        vectors = (self.slot_queries[self.slots], self.slot_keys)
        queries, keys = (x.unflatten(-1, (self.settings.heads, -1)) for x in vectors)
        return torch.einsum("nhw,shw->nhs", queries, keys) / math.sqrt(queries.shape[-1])

    def _bias(self) -> Tensor | None:
        """`_slot_bias`, where all receivers are in one stack, their own tokens first: [1, h, N, 2N]."""
        bias = self._slot_bias()
        return None if bias is None else nn.functional.pad(bias, (len(bias), 0)).transpose(0, 1).unsqueeze(0)

    def _bias_of_stacks(self, worlds: int) -> Tensor | None:
        """`_slot_bias` in the stacks of B worlds, [B N, h, 1, 1 + N]."""
        bias = self._slot_bias()
        return None if bias is None else nn.functional.pad(bias, (1, 0)).unsqueeze(-2).repeat(worlds, 1, 1, 1)

    def gather(self, features: Tensor, memory: Memory, received: Tensor, audible: Tensor) -> Tensor:
        own, heard = self.own_token(self._own(features, memory)), self._heard(received)
        *mixing, last = (cast(Layer, layer) for layer in self.layers)
        by_slots = self._slot_bias()
        if not mixing:
            return last.gather(own, heard.unsqueeze(1), audible, by_slots)
        stacks, seen = stacks_of(own, heard, audible)
        bias = self._bias_of_stacks(len(own))
        for layer in mixing:
            # The receiver's own token is what it would be had it heard nobody, as in `take`.
            own, stacks = layer.join(own), layer(stacks, stacks.shape[1], seen, bias)
            stacks = torch.cat([own.flatten(0, 1).unsqueeze(1), stacks[:, 1:]], dim=1)
        return last.gather(own, stacks[:, 1:].unflatten(0, own.shape[:2]), audible, by_slots)

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


def stacks_of(own: Tensor, heard: Tensor, audible: Tensor) -> tuple[Tensor, Tensor]:
    """A stack [B N, 1 + N, W] for each receiver, its own token first, and what is seen in it, [B N, 1, 1 + N] bool."""
    heard = heard.unsqueeze(1).expand(-1, own.shape[1], -1, -1)
    stacks = torch.cat([own.unsqueeze(2), heard], dim=2).flatten(0, 1)
    itself = audible.new_ones((*audible.shape[:2], 1))
    return stacks, torch.cat([itself, audible], dim=-1).flatten(0, 1).unsqueeze(1)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward over the tokens of stacks."""

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

    def forward(self, tokens: Tensor, updated: int, seen: Tensor, bias: Tensor | None = None) -> Tensor:
        """The new first Q (`updated`) tokens [G, Q, W] of G stacks [G, S, W]; each attends to those it has seen.

        Seen is [G, Q, S] bool, or [G, 1, S] for all alike; who sees nothing is not provided for. Bias [G, h, Q, S],
        where all but S may be 1, is added to the scores.
        """
        normed = self.norm(tokens)
        queries = self._split(self.query(normed[:, :updated]))
        keys, values = (self._split(part) for part in self.key_value(normed).chunk(2, dim=-1))
        mask = seen.unsqueeze(1)
        if bias is not None:
            mask = torch.where(mask, bias, -torch.inf)
        mixed = nn.functional.scaled_dot_product_attention(
            queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
        )
        return self._fed(tokens[:, :updated] + self.output(mixed.transpose(1, 2).flatten(-2)))

    def gather(self, own: Tensor, heard: Tensor, audible: Tensor, bias: Tensor | None = None) -> Tensor:
        """What the heads of each receiver attend to of the heard tokens alone, side by side [B, N, W]; 0 if of none.

        Heard is [B, R, N, W]: R is N, or 1 where all receivers share the tokens of the senders. Bias [N, h, N] is
        added to the scores.
        """
        queries = self._split(self.query(self.norm(own)))  # [B, N, h, W/h]
        keys, values = (self._split(part) for part in self.key_value(self.norm(heard)).chunk(2, dim=-1))
        scores = torch.einsum("bnhw,bnshw->bnhs", queries, keys) / math.sqrt(queries.shape[-1])
        if bias is not None:
            scores = scores + bias
        audible = audible.unsqueeze(2)
        # Finite, so that who hears nobody has no gradient, and not a NaN.
        weights = torch.softmax(scores.masked_fill(~audible, _NEVER), dim=-1) * audible
        return torch.einsum("bnhs,bnshw->bnhw", weights, values).flatten(-2)

    def join(self, own: Tensor, read: Tensor | float = 0.0) -> Tensor:
        """The receiver's new token [B, N, W] after what it has read; without it, as if it had heard nobody."""
        own_value = self.key_value(self.norm(own)).chunk(2, dim=-1)[1]
        return self._fed(own + self.output(own_value + read))

    def _fed(self, attended: Tensor) -> Tensor:
        new: Tensor = attended + self.feed_forward(attended)
        return new

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1)
