"""What channels of tokens share: how a sender chooses them one by one, and where a message ends.

A token is a row [V] that is one at its value and zero elsewhere, so that a gradient can pass through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from marlcomm.channels.settings import Schedule, TokenSettings
from marlcomm.wire.alphabet import Alphabet

Choose = Callable[[Tensor, Tensor], Tensor]
"""Tokens [..., V] of logits [..., V] and the draws [..., A] that decide them."""


class FactorisedSender(nn.Module):
    """Every token's logits from the message alone."""

    def __init__(self, message_size: int, settings: TokenSettings) -> None:
        super().__init__()
        self.shape = settings.tokens, settings.vocabulary
        self.to_logits = nn.Linear(message_size, settings.tokens * settings.vocabulary)

    def forward(self, messages: Tensor, draws: Tensor, choose: Choose) -> tuple[Tensor, Tensor]:
        """Tokens and logits, both [..., T, V], of messages [..., D] and draws [..., T, A]."""
        logits = self.logits(messages)
        return choose(logits, draws), logits

    def logits(self, messages: Tensor) -> Tensor:
        """Logits [..., T, V] of messages [..., D]."""
        logits: Tensor = self.to_logits(messages).unflatten(-1, self.shape)
        return logits


class AutoregressiveSender(nn.Module):
    """A GRU that starts from the message and reads every token it has said before it chooses the next."""

    def __init__(self, message_size: int, settings: TokenSettings) -> None:
        super().__init__()
        width = settings.sender_size
        self.to_state = nn.Linear(message_size, width)
        self.cell = nn.GRUCell(width, width)
        self.to_logits = nn.Linear(width, settings.vocabulary)
        self.embedding = nn.Parameter(torch.randn(settings.vocabulary, width))

    def forward(self, messages: Tensor, draws: Tensor, choose: Choose) -> tuple[Tensor, Tensor]:
        """Tokens and logits, both [..., T, V], of messages [..., D] and draws [..., T, A]."""
        leading = messages.shape[:-1]
        state = torch.tanh(self.to_state(messages)).reshape(-1, self.cell.hidden_size)  # the cell wants one axis
        said = torch.zeros_like(state)
        tokens, logits = [], []
        for drawn in draws.reshape(-1, *draws.shape[-2:]).unbind(-2):
            state = self.cell(said, state)
            logits.append(self.to_logits(state))
            tokens.append(choose(logits[-1], drawn))
            said = tokens[-1] @ self.embedding
        chosen, scores = torch.stack(tokens, -2), torch.stack(logits, -2)
        return chosen.reshape(*leading, *chosen.shape[1:]), scores.reshape(*leading, *scores.shape[1:])


SENDERS: dict[str, type[FactorisedSender | AutoregressiveSender]] = {
    "factorised": FactorisedSender,
    "autoregressive": AutoregressiveSender,
}


def make_sender(message_size: int, settings: TokenSettings) -> FactorisedSender | AutoregressiveSender:
    """The sender that the settings name."""
    return SENDERS[settings.sender](message_size, settings)


def token_alphabet(settings: TokenSettings) -> Alphabet:
    """T tokens of V values, or at most T where token 0 ends a message."""
    if settings.end_token:
        return Alphabet.until_end(settings.vocabulary, settings.tokens)
    return Alphabet.fixed([settings.vocabulary] * settings.tokens)


def one_hot(values: Tensor, vocabulary: int) -> Tensor:
    """Tokens [..., V] of their values [...]."""
    values = values.long().unsqueeze(-1)
    return torch.zeros(*values.shape[:-1], vocabulary, device=values.device).scatter_(-1, values, 1.0)


def spoken(tokens: Tensor, end_token: bool) -> Tensor:
    """One [..., T] for each of tokens [..., T, V] that is on the wire, zero for those after the end mark.

    Linear in every token, so the choice to end has a gradient too: that of all that would have followed.
    """
    if not end_token:
        return torch.ones_like(tokens[..., 0])
    goes_on = 1 - tokens[..., :-1, 0]
    return torch.cat([torch.ones_like(goes_on[..., :1]), goes_on.cumprod(-1)], -1)


def to_symbols(tokens: Tensor, end_token: bool) -> Tensor:
    """Symbols [..., T] int32 of tokens [..., T, V]; zero where nothing is sent."""
    values = tokens.argmax(-1).to(torch.int32)
    return values * spoken(tokens, end_token).to(torch.int32) if end_token else values


class TokenReader(nn.Module):
    """What a receiver makes of tokens: the sum of one embedding for each, by slot and value; none after the end.

    Slots have embeddings of their own, so the order of tokens is heard without a recurrent reader.
    """

    def __init__(self, width: int, settings: TokenSettings) -> None:
        super().__init__()
        self.end_token = settings.end_token
        self.embedding = nn.Parameter(torch.randn(settings.tokens, settings.vocabulary, width))

    def forward(self, symbols: Tensor) -> Tensor:
        """Vectors [..., W] of symbols [..., T]; whatever stands after an end mark counts for nothing."""
        slots, vocabulary = self.embedding.shape[:2]
        rows = symbols.long() + torch.arange(slots, device=symbols.device) * vocabulary
        weights = self._heard(symbols).reshape(-1, slots) if self.end_token else None
        heard: Tensor = _sum_of_rows(self.embedding.flatten(0, 1), rows.reshape(-1, slots), weights)
        return heard.view(*symbols.shape[:-1], self.embedding.shape[-1])

    def _heard(self, symbols: Tensor) -> Tensor:
        """One [..., T] for each symbol up to the end mark, zero after it."""
        goes_on = (symbols[..., :-1] != 0).to(torch.float32)
        return torch.cat([torch.ones_like(goes_on[..., :1]), goes_on.cumprod(-1)], -1)

    def relaxed(self, tokens: Tensor) -> Tensor:
        """The same of tokens [..., T, V] that carry a gradient; the embeddings get none."""
        sent = tokens * spoken(tokens, self.end_token).unsqueeze(-1) if self.end_token else tokens
        return sent.flatten(-2) @ self.embedding.detach().flatten(0, 1)


class _SumOfRows(torch.autograd.Function):
    """`embedding_bag` that sums, with a gradient for the table [R, W] alone and in half the time of torch's own."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, weights: Tensor | None) -> Tensor:
        """Sums [M, W] of the rows [M, T] of a table, each times its weight [M, T]."""
        ctx.save_for_backward(rows, weights)
        ctx.length = len(table)
        return nn.functional.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (rows, weights) = gradients, ctx.saved_tensors
        table = gradient.new_zeros(ctx.length, gradient.shape[-1])
        for slot in range(rows.shape[-1]):
            wanted = gradient if weights is None else gradient * weights[:, slot, None]
            table.index_add_(0, rows[:, slot], wanted)
        return table, None, None


_sum_of_rows: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _SumOfRows.apply


def scheduled(schedule: Schedule, first: float, last: float, share: float) -> float:
    """A number that falls from `first` to `last` while `share` of the way goes from 0 to 1."""
    share = min(share, 1.0)
    if schedule == "linear":
        return first + share * (last - first)
    return first * (last / first) ** share if schedule == "exponential" else first
