"""Tokens by straight-through Gumbel-softmax (Jang et al. 2017, Maddison et al. 2017), and its low-variance estimator.

The sample is exact: the arg-max of logits plus Gumbel noise. The gradient is that of the relaxed sample
softmax((logits + noise) / temperature). The receiver always hears hard tokens, so nothing is lost when the
relaxation is gone. `gr_mck` (Paulus, Maddison and Krause 2020) averages the relaxed sample over K noises that would
all have led to the same token: the same expectation, less variance. In evaluations both take the likeliest token, if
the settings do not say otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm import noise as random
from marlcomm.channels.base import Channel
from marlcomm.channels.settings import GRMCKSettings, GumbelSettings
from marlcomm.channels.tokens import (
    FactorisedSender,
    TokenReader,
    make_sender,
    one_hot,
    scheduled,
    spoken,
    to_symbols,
    token_alphabet,
)
from marlcomm.wire.alphabet import Alphabet

_KEY_DRAWS = 3  # hold more bits than a key
_LEAST_LOG_CHANCE = -80.0  # exp(80) times any exponential variate is a float32


class GumbelChannel(Channel):
    """Tokens drawn from a distribution that the sender shapes.

    Shapes: messages [..., D] -> logits [..., T, V] -> symbols [..., T] in 0 .. V - 1 -> received [..., D], the sum of
    one embedding per token. With an end mark, token 0 ends a message: what follows is neither sent nor heard.
    The loss ``length`` is the number of tokens sent, end mark included, with the straight-through gradient.
    """

    settings: GumbelSettings
    temperature: Tensor

    def __init__(self, message_size: int, settings: GumbelSettings | None = None) -> None:
        settings = GumbelSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.noise_size = settings.tokens * settings.vocabulary
        self.sender = make_sender(message_size, settings)
        self.reader = TokenReader(message_size, settings)
        self.register_buffer("temperature", torch.tensor(settings.temperature))

    def alphabet(self) -> Alphabet:
        return token_alphabet(self.settings)

    @torch.no_grad()
    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return to_symbols(self._tokens(messages, noise), self.settings.end_token)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        heard: Tensor = self.reader(symbols)
        return heard

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.reader.relaxed(self._tokens(messages, noise))

    def encode_with_surrogate(self, messages: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.settings.end_token or not isinstance(self.sender, FactorisedSender):
            tokens = self._tokens(messages, noise)
            return to_symbols(tokens.detach(), self.settings.end_token), self.reader.relaxed(tokens)
        # No token is read before the message is whole, so none has to be a hard one with a soft gradient.
        uniforms = self._uniforms(noise)
        logits, gumbels = self.sender.logits(messages), self._gumbels(uniforms)
        symbols = (logits.detach() + gumbels).argmax(-1).to(torch.int32)
        return symbols, self.reader.relaxed(self._relaxed(logits, gumbels, uniforms))

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        if not self.loss_weights():
            return {}
        return {"length": spoken(self._tokens(messages, noise), self.settings.end_token).sum(-1)}

    def loss_weights(self) -> dict[str, float]:
        return {"length": self.settings.length_weight} if self.settings.length_weight else {}

    def after_update(self, env_steps: int) -> None:
        wanted = self.settings
        share = env_steps / wanted.temperature_steps
        self.temperature.fill_(
            scheduled(wanted.temperature_schedule, wanted.temperature, wanted.temperature_end, share)
        )

    def _tokens(self, messages: Tensor, noise: Tensor | None) -> Tensor:
        """Tokens [..., T, V], with the gradient of the relaxed ones."""
        tokens: Tensor = self.sender(messages, self._uniforms(noise), self._choose)[0]
        return tokens

    def _uniforms(self, noise: Tensor | None) -> Tensor:
        if noise is None:
            raise ValueError("tokens need noise: pass uniform draws of shape [..., tokens * V]")
        uniforms: Tensor = noise.unflatten(-1, (self.settings.tokens, self.settings.vocabulary))
        return uniforms

    def _gumbels(self, uniforms: Tensor) -> Tensor:
        """What perturbs logits [..., V]: nothing where the likeliest token is wanted."""
        certain = self.evaluating and self.settings.eval_tokens == "argmax"
        return torch.zeros_like(uniforms) if certain else random.gumbel(uniforms)

    def _choose(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """The one place where a token is chosen: an exact sample [..., V], given draws [..., V], or the likeliest."""
        gumbels = self._gumbels(uniforms)
        hard = one_hot((logits.detach() + gumbels).argmax(-1), self.settings.vocabulary)
        if not torch.is_grad_enabled():
            return hard
        soft = self._relaxed(logits, gumbels, uniforms)
        return hard + (soft - soft.detach())

    def _relaxed(self, logits: Tensor, gumbels: Tensor, uniforms: Tensor) -> Tensor:
        """The relaxed sample [..., V] of logits [..., V] with the noise that was drawn."""
        return torch.softmax((logits + gumbels) / self.temperature, -1)


class GRMCKChannel(GumbelChannel):
    """Gumbel tokens with a Rao-Blackwellised gradient: the relaxed sample, averaged over K noises given the token.

    Shapes and symbols are those of `gumbel` under the same noise; only the gradient differs, and its cost: K V numbers
    a token. The conditional draws are hashed from the message's own noise, so no end has to be given more of it.
    """

    settings: GRMCKSettings

    def __init__(self, message_size: int, settings: GRMCKSettings | None = None) -> None:
        super().__init__(message_size, GRMCKSettings() if settings is None else settings)

    def _relaxed(self, logits: Tensor, gumbels: Tensor, uniforms: Tensor) -> Tensor:
        noises = self._noises(logits.detach(), gumbels, uniforms)
        return torch.softmax((logits.unsqueeze(-2) + noises) / self.temperature, -1).mean(-2)

    def _noises(self, logits: Tensor, gumbels: Tensor, uniforms: Tensor) -> Tensor:
        """Gumbel noises [..., K, V] that lead to the same token as the drawn one [..., V]."""
        samples, vocabulary = self.settings.samples, self.settings.vocabulary
        keys = random.keys_of(uniforms[..., :_KEY_DRAWS])
        more = random.many_uniform(keys, samples * vocabulary).unflatten(-1, (samples, vocabulary))
        return conditional_gumbels(logits, one_hot((logits + gumbels).argmax(-1), vocabulary), more)


@torch.no_grad()
def conditional_gumbels(logits: Tensor, hard: Tensor, uniforms: Tensor) -> Tensor:
    """Gumbel noises [..., K, V], given that logits [..., V] plus noise have their maximum at the token `hard` [..., V].

    With E_j exponential variates, from uniforms [..., K, V], p = softmax(logits) and i the token, the perturbed
    log p_j are -log(E_i) at i and -log(E_j / p_j + E_i) elsewhere (Maddison et al. 2014, Paulus et al. 2020). The
    noise is this minus log p. It is constant in the backward pass: differentiating through it too, as the DAPS
    authors' port does, is another estimator.
    """
    log_p = torch.log_softmax(logits, -1).clamp(min=_LEAST_LOG_CHANCE).unsqueeze(-2)
    logs = torch.log(uniforms)  # -E
    first = logs @ hard.unsqueeze(-1)  # [..., K, 1], -E_i
    # Others add a positive number to the token's own, so that in float32, too, none is above it.
    rates = logs.mul_((hard.unsqueeze(-2) - 1) * torch.exp(-log_p)).sub_(first)
    return rates.log_().add_(log_p).neg_()
