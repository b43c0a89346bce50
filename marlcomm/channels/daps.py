"""DAPS: tokens whose sender is trained by policy search, not through a relaxation (Drolet et al. 2026).

The sender q(z | h) of message h is a policy whose reward is how well the receivers' decoder reconstructs h from the
tokens z, and in mode `task` also what z is worth to those who act on it. K samples are weighted by
u = (R - beta log q) / (eta + beta), and the sender fits the weighted samples by maximum likelihood. With fixed rewards
its stationary point is q ~ exp(R / beta), whatever eta and K: beta is the entropy temperature of messages, eta only
says how far one update may go.

Departures from the published code, which compresses images: rewards are means over the elements of h, not sums; h is
standardised; eta is led by its effective sample size itself, not by the square of the difference to its aim, which
is no mean over messages; and the PPO sender is given the mean of its other samples as a baseline, no critic and no
penalty on its divergence, and its entropy bonus is -beta log q in the reward: a sum of the entropies of its choices
would say nothing of how a choice changes those that follow it.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from marlcomm import noise as random
from marlcomm.channels.base import Channel, Search
from marlcomm.channels.settings import DAPSSettings
from marlcomm.channels.tokens import (
    TokenReader,
    make_sender,
    one_hot,
    scheduled,
    spoken,
    to_symbols,
    token_alphabet,
)
from marlcomm.wire.alphabet import Alphabet

LOG_ETA_RANGE = -7.0, 10.0  # near the fixed point all weights are equal whatever eta is, and it would fall for ever
LEAST_LOG_VARIANCE = math.log(0.01)
_LEAST_SPREAD = 1e-3
_PACE = 10.0  # numbers that must follow the training quickly, at the learning rate of everything else
_OUTLIER = 3.0


class DAPSChannel(Channel):
    """Tokens from a sender that searches for what its receivers can decode.

    Shapes: messages [..., D] -> symbols [..., T] in 0 .. V - 1 -> received [..., D], the decoder's mean plus a
    correction that the receivers' loss alone teaches, in units of the message. That loss stops at the decoder: no
    gradient passes through the tokens (`st_bypass` lets it pass straight, which is biased).

    Losses, for K samples z of each message h: ``search`` trains q and the message, ``reconstruction`` is the negative
    mean log-likelihood of h, and trains the decoder; ``scale`` follows the messages' centre and spread; ``trust`` is
    the effective share of the samples, and leads eta; ``table`` is the length of z in bits under a table of each
    slot's symbols that is learned on the way, where `bit_cost` counts it. In mode ``task`` a learner's credit for each
    sample enters ``search``, and nothing else.
    """

    settings: DAPSSettings
    beta: Tensor

    def __init__(self, message_size: int, settings: DAPSSettings | None = None) -> None:
        settings = DAPSSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.differentiable = settings.st_bypass
        self.wants_credit = settings.wants_credit
        self.noise_size = settings.tokens
        self.standard = Standard(message_size)
        self.sender = make_sender(message_size, settings)
        self.decoder = TokenDecoder(message_size, settings)
        self.register_buffer("beta", torch.tensor(settings.beta))
        if settings.encoder_loss == "daps":
            self.slow_log_eta = nn.Parameter(torch.tensor(math.log(settings.eta) / _PACE))
        else:
            self.old_sender = frozen(self.sender)
        if settings.bit_cost:
            self.table = nn.Parameter(torch.zeros(settings.tokens, settings.vocabulary))

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Standardise by what is said: an untrained team's messages differ little."""
        if len(messages):
            self.standard.fit(messages)

    def alphabet(self) -> Alphabet:
        return token_alphabet(self.settings)

    @torch.no_grad()
    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        draws = self._uniforms(noise).unsqueeze(-1)
        certain = self.evaluating and self.settings.eval_tokens == "argmax"
        choose = _likeliest if certain else self._choose
        return to_symbols(self.sender(self.standard(messages), draws, choose)[0], self.settings.end_token)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        mean, _, correction = self.decoder(symbols)
        return self.standard.undo(mean + correction)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return messages if self.settings.st_bypass else messages.detach()

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        return self.credited_losses(self.search(messages, symbols, noise))

    def search(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> Search:
        standard = self.standard(messages)
        tokens, log_q, old_log_q = self._samples(standard, self._uniforms(noise))
        mean, log_variance, correction = self.decoder(to_symbols(tokens, self.settings.end_token))
        fit = log_likelihood(standard.detach().unsqueeze(-2), mean, log_variance)
        terms = {
            "rewards": self.rewards(fit.detach(), tokens),
            "log_q": log_q,
            "old_log_q": old_log_q,
            "reconstruction": -fit.mean(-1),
            "scale": self.standard.loss(messages.detach()),
        }
        if self.settings.bit_cost:
            terms["table"] = self.table_bits(tokens[..., 0, :, :])
        return Search(self.standard.undo(mean + correction).detach(), terms)

    def credited_losses(self, search: Search, credit: Tensor | None = None) -> dict[str, Tensor]:
        terms = dict(search.terms)
        rewards, log_q, old_log_q = (terms.pop(name) for name in ("rewards", "log_q", "old_log_q"))
        if credit is not None:
            rewards = rewards + self.settings.task_weight * credit
        if self.settings.encoder_loss == "ppo":
            soft = rewards - self.beta * old_log_q
            return terms | {"search": clipped_search(soft, log_q, old_log_q, self.settings.clip_param)}
        weights = search_weights(rewards, log_q.detach(), self.log_eta.exp().detach(), self.beta)
        return terms | {"search": -(weights * log_q).sum(-1), "trust": self._trust(weights)}

    def loss_weights(self) -> dict[str, float]:
        weights = {"reconstruction": self.settings.decoder_weight, "search": self.settings.search_weight, "scale": 1.0}
        if self.settings.bit_cost:
            weights["table"] = 1.0
        if self.settings.encoder_loss == "daps":
            weights["trust"] = 1.0
        return weights

    @torch.no_grad()
    def after_update(self, env_steps: int) -> None:
        wanted = self.settings
        share = env_steps / wanted.beta_steps
        self.beta.fill_(scheduled(wanted.beta_schedule, wanted.beta, wanted.beta_end, share))
        if wanted.encoder_loss == "daps":
            low, high = LOG_ETA_RANGE
            self.slow_log_eta.clamp_(low / _PACE, high / _PACE)
        else:
            self.old_sender.load_state_dict(self.sender.state_dict())

    @property
    def log_eta(self) -> Tensor:
        """The trust region's multiplier: small is greedy, large leaves the sender as it is."""
        return (self.slow_log_eta * _PACE).clamp(*LOG_ETA_RANGE)

    def rewards(self, fit: Tensor, tokens: Tensor) -> Tensor:
        """What the sender is to maximise, [..., K] for samples [..., K, T, V] that explain h by fit [..., K] nats.

        Rewards need no gradient, so any cost of a message can be subtracted here. Credit is added afterwards.
        """
        rewards = self.settings.fit_weight * fit
        if not self.settings.bit_cost:
            return rewards
        return rewards - self.settings.bit_cost * self.table_bits(tokens).detach()

    def table_bits(self, tokens: Tensor) -> Tensor:
        """The code length [...] in bits of tokens [..., T, V] under the learned table: no real code's, but its aim."""
        bits = -(tokens * torch.log_softmax(self.table, -1)).sum(-1) / math.log(2)
        return (bits * spoken(tokens, self.settings.end_token)).sum(-1)

    def _uniforms(self, noise: Tensor | None) -> Tensor:
        if noise is None:
            raise ValueError("tokens need noise: pass uniform draws of shape [..., tokens]")
        return noise

    def _choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """Where a token is drawn: an exact sample [..., V], given draws [..., 1]."""
        values = random.categorical(logits.detach(), draws.squeeze(-1))
        return one_hot(values, self.settings.vocabulary)

    def _samples(self, standard: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """K samples for messages [..., D], the one on the wire first; more are drawn by hashing its own noise.

        Returns tokens [..., K, T, V], their log-probability [..., K] with gradient, and that under the sender that
        drew them, without.
        """
        samples, length = self.settings.samples, self.settings.tokens
        more = random.many_uniform(random.keys_of(uniforms), (samples - 1) * length)
        draws = torch.cat([uniforms.unsqueeze(-2), more.unflatten(-1, (samples - 1, length))], -2).unsqueeze(-1)
        inputs = standard.unsqueeze(-2).expand(*draws.shape[:-2], -1)
        if self.settings.encoder_loss == "daps":
            tokens, logits = self.sender(inputs, draws, self._choose)
            old_logits = logits
        else:
            with torch.no_grad():
                tokens, old_logits = self.old_sender(inputs, draws, self._choose)
            logits = self.sender(inputs, tokens, _repeat)[1]
        sent = spoken(tokens, self.settings.end_token)
        return tokens, log_chance(logits, tokens, sent), log_chance(old_logits, tokens, sent).detach()

    def _trust(self, weights: Tensor) -> Tensor:
        """The effective share [...] of the samples; its gradient lowers eta where the share is above its aim."""
        share = 1 / (weights.square().sum(-1) * self.settings.samples)
        return steered(share, (share - self.settings.effective_share) * self.slow_log_eta)


class TokenDecoder(nn.Module):
    """The receivers' end: what tokens say about the message, as a Gaussian, and what is to be added for the task."""

    def __init__(self, message_size: int, settings: DAPSSettings) -> None:
        super().__init__()
        width = settings.decoder_size
        self.reader = TokenReader(width, settings)
        self.trunk = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.gaussian = nn.Linear(width, 2 * message_size)
        self.correction = nn.Linear(width, message_size)
        for weight in self.correction.parameters():
            nn.init.zeros_(weight)  # at first, what is heard is what is reconstructed

    def forward(self, symbols: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, log variance (of 0.01 to 1) and correction, each [..., D], of symbols [..., T]."""
        heard = self.trunk(self.reader(symbols))
        mean, variance = self.gaussian(heard).chunk(2, -1)
        return mean, LEAST_LOG_VARIANCE * torch.sigmoid(variance), self.correction(heard)


class Standard(nn.Module):
    """Where messages lie and how far they spread, for each element: numbers that follow the messages by a loss.

    A loss for each message needs no statistics over the batch: learners agree, and unheard messages count for
    nothing. Nothing else moves these numbers.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.zeros(size))
        self.slow_log_spread = nn.Parameter(torch.zeros(size))

    @torch.no_grad()
    def fit(self, messages: Tensor) -> None:
        """Take mean and standard deviation of messages [M, D]."""
        self.center.copy_(messages.mean(0))
        self.slow_log_spread.copy_(messages.std(0, correction=0).clamp(min=_LEAST_SPREAD).log() / _PACE)

    def spread(self) -> Tensor:
        """The standard deviation [D] that is reckoned with."""
        return (self.slow_log_spread * _PACE).exp().detach()

    def forward(self, messages: Tensor) -> Tensor:
        """Messages [..., D] in standard units."""
        return (messages - self.center.detach()) / self.spread()

    def undo(self, standard: Tensor) -> Tensor:
        """Standard units [..., D] as messages."""
        return standard * self.spread() + self.center.detach()

    def loss(self, messages: Tensor) -> Tensor:
        """Mean square [...] of messages [..., D] in standard units: one where they are standardised.

        Its gradient moves the centre to their mean and the spread to their standard deviation, and is bounded: an
        outlier must not dominate the norm that all gradients are clipped by.
        """
        units = self(messages)
        bounded = units.clamp(-_OUTLIER, _OUTLIER)
        pull = (1 - bounded.square()) * self.slow_log_spread - bounded * self.center
        return steered(units.square().mean(-1), pull.mean(-1))


def steered(figure: Tensor, pull: Tensor) -> Tensor:
    """A loss that is logged as one figure [...], and whose gradient is that of another [...]."""
    return figure.detach() + (pull - pull.detach())


def frozen(module: nn.Module) -> nn.Module:
    """A copy whose weights are buffers: they travel with the others and no optimiser moves them."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, weight.detach())
    return copied


def search_weights(rewards: Tensor, log_q: Tensor, eta: Tensor, beta: Tensor) -> Tensor:
    """Weights [..., K] of samples: softmax over K of (R - beta log q) / (eta + beta); a baseline of R would cancel."""
    return torch.softmax((rewards - beta * log_q) / (eta + beta), -1)


def clipped_search(rewards: Tensor, log_q: Tensor, old_log_q: Tensor, clip: float) -> Tensor:
    """PPO's loss [...] of rewards and log-probabilities [..., K]; the baseline is the mean of the other samples."""
    advantages = (rewards - rewards.mean(-1, keepdim=True)) * rewards.shape[-1] / (rewards.shape[-1] - 1)
    ratio = torch.exp(log_q - old_log_q)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean(-1)


def log_likelihood(target: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over the elements [..., D] of a Gaussian's log-density, in nats."""
    squares = (target - mean).square() * torch.exp(-log_variance)
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).mean(-1)


def log_chance(logits: Tensor, tokens: Tensor, sent: Tensor) -> Tensor:
    """The log-probability [...] of tokens [..., T, V], of which [..., T] are sent."""
    return ((torch.log_softmax(logits, -1) * tokens).sum(-1) * sent).sum(-1)


def _likeliest(logits: Tensor, draws: Tensor) -> Tensor:
    """Choose what is likeliest, whatever was drawn."""
    return one_hot(logits.argmax(-1), logits.shape[-1])


def _repeat(logits: Tensor, tokens: Tensor) -> Tensor:
    """Choose what was chosen before."""
    return tokens
