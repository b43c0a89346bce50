"""Tokens by straight-through Gumbel-softmax (Jang et al. 2017, Maddison et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcomm import noise as random
from marlcomm.channels.base import Channel
from marlcomm.channels.settings import GumbelSettings
from marlcomm.wire.alphabet import Alphabet


class GumbelChannel(Channel):
    """Tokens drawn from a distribution that the sender shapes.

    Shapes: messages [..., D] -> logits [..., tokens, V] -> symbols [..., tokens] in 0 .. V - 1, the arg-max of
    logits plus Gumbel noise -> received [..., D], the sum of one embedding per token.
    The sender's gradient is that of the relaxed sample softmax((logits + noise) / temperature); the receiver always
    hears the hard tokens, so nothing is lost when the relaxation is gone.
    """

    settings: GumbelSettings

    def __init__(self, message_size: int, settings: GumbelSettings | None = None) -> None:
        settings = GumbelSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.noise_size = settings.tokens * settings.vocabulary
        self.to_logits = nn.Linear(message_size, settings.tokens * settings.vocabulary)
        self.embedding = nn.Parameter(torch.randn(settings.tokens, settings.vocabulary, message_size))

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([self.settings.vocabulary] * self.settings.tokens)

    def _perturbed(self, messages: Tensor, noise: Tensor | None) -> Tensor:
        """Logits plus Gumbel noise [..., tokens, V]; the arg-max of these is an exact sample."""
        if noise is None:
            raise ValueError("gumbel needs noise: pass uniform draws of shape [..., tokens * V]")
        logits: Tensor = self.to_logits(messages)
        shape = (*messages.shape[:-1], self.settings.tokens, self.settings.vocabulary)
        return (logits + random.gumbel(noise)).view(shape)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._perturbed(messages, noise).argmax(-1).to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        slots = torch.arange(self.settings.tokens, device=symbols.device)
        return self.embedding[slots, symbols.long()].sum(-2)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        relaxed = torch.softmax(self._perturbed(messages, noise) / self.settings.temperature, dim=-1)
        return torch.einsum("...tv,tvd->...d", relaxed, self.embedding.detach())
