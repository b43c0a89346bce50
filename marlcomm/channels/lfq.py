"""Signs as symbols: lookup-free (Yu et al. 2023) and binary spherical quantisation (Zhao et al. 2024).

On `vector-quantize-pytorch`'s LFQ, which names the bits and decodes them. Its losses are means over whatever batch
it is given, by all 2^K codes; a channel owes one loss a message that no unheard message moves. So they are computed
here, and without listing codes: given a point, the softmax over all codes is a product over bits.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import LFQ

from marlcomm.channels.base import Channel
from marlcomm.channels.projection import Projection
from marlcomm.channels.settings import LFQSettings
from marlcomm.wire.alphabet import Alphabet


class LFQChannel(Channel):
    """One bit for each of K numbers: its sign.

    Shapes: messages [..., D] -> points x [..., K] by a learned linear map, or as they are where K = D -> symbols
    [..., K] in {0, 1} -> codes -1 or 1 -> received [..., D] by a second linear map. Spherical: points are brought to
    length 1 first, and codes are -1 / sqrt(K) or 1 / sqrt(K).
    The gradient passes straight through. Losses of a message, with p = sigmoid(4 T x c), c the code's magnitude:
    ``commitment``: mean (x - code)^2. ``entropy``: H(p), minus `diversity` times the message's share of H(E[p]), which
    is the cross-entropy of p against the bits' usage. ``usage``: the cross-entropy of p again, whose gradient moves
    the usage alone, a parameter: so E[p] runs over heard messages of all learners, and never moves while sampling.
    The usage is kept bit by bit, whose entropies add up to an upper bound of the library's H(E[p]) over codes.
    """

    settings: LFQSettings

    # Usage is learned at the optimiser's rate: this lets it keep up with the messages.
    _USAGE_SCALE = 10.0

    def __init__(self, message_size: int, settings: LFQSettings | None = None) -> None:
        settings = LFQSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.projection = Projection(message_size, settings.bits)
        self.quantiser = LFQ(dim=settings.bits, spherical=settings.spherical).eval()
        self.usage = nn.Parameter(torch.zeros(settings.bits))
        self._magnitude = settings.bits**-0.5 if settings.spherical else 1.0

    def train(self, mode: bool = True) -> Self:
        """The library's module stays as it is: in training it would list all codes for losses that are not used."""
        super().train(mode)
        self.quantiser.eval()
        return self

    def calibrate(self, messages: Tensor) -> None:
        """Spread what an untrained team says over both signs."""
        self.projection.calibrate(messages)

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([2] * self.settings.bits)

    def _points(self, messages: Tensor) -> Tensor:
        points: Tensor = self.projection(messages)
        return nn.functional.normalize(points, dim=-1) if self.settings.spherical else points

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        points: Tensor = self.projection(messages)
        indices = self.quantiser(points.reshape(1, -1, self.settings.bits)).indices
        bits: Tensor = (indices.unsqueeze(-1) & self.quantiser.mask) != 0
        return bits.view(points.shape).to(torch.int32)

    def _codes(self, symbols: Tensor) -> Tensor:
        """Codes [..., K] of bits [..., K]."""
        indices = (symbols * self.quantiser.mask).sum(-1).view(1, -1)
        codes: Tensor = self.quantiser.indices_to_codes(indices)
        return codes.view(symbols.shape)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.projection.back(self._codes(symbols))

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.projection.slope(self._points(messages))

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        points = self._points(messages)
        losses = {"commitment": (points - self._codes(symbols)).square().mean(-1)}
        if self.settings.entropy_weight:
            logits = 4 * self.settings.inverse_temperature * self._magnitude * points
            usage = self._USAGE_SCALE * self.usage
            share = _cross_entropy(usage.detach(), logits)
            losses["entropy"] = _cross_entropy(logits, logits) - self.settings.diversity * share
            losses["usage"] = _cross_entropy(usage, logits.detach())
        return losses

    def loss_weights(self) -> dict[str, float]:
        weights = {"commitment": self.settings.commitment_weight}
        if self.settings.entropy_weight:
            weights |= {"entropy": self.settings.entropy_weight, "usage": 1.0}
        return weights


def _cross_entropy(coded_for: Tensor, bits: Tensor) -> Tensor:
    """Nats [...] that bits, one with probability sigmoid(bits [..., K]), cost in a code for sigmoid(coded_for)."""
    one = torch.sigmoid(bits)
    return (nn.functional.softplus(coded_for) - one * coded_for).sum(-1)
