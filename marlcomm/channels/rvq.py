"""Residual vector quantisation: every stage names what the stages before it left over (Zeghidour et al. 2021).

On `vector-quantize-pytorch`'s ResidualVQ, which holds the codebooks. They are parameters here and learn from our
losses through the optimiser: the library's are means over whatever batch it is given, and its moving averages would
change while sampling. The search and the sum are written out here, since the library's forward pass takes five times
as long for the same indices; a test holds both against each other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from marlcomm import noise as random
from marlcomm.channels.base import Channel
from marlcomm.channels.settings import RVQSettings
from marlcomm.wire.alphabet import Alphabet


class RVQChannel(Channel):
    """Q indices of L codewords each, of which the first q make a coarser message.

    Shapes: messages [..., D] are normalised -> indices [..., Q] in 0 .. L - 1, each of the codeword nearest to what the
    earlier ones left over -> received [..., D], the sum of the codewords. With ``prefix: random`` a draw of the noise
    says how many stages, 1 .. Q, are sent; symbols are then [..., 1 + Q]: that number less 1, the indices sent, zeros.
    The gradient passes straight through to the normalised message. Losses, in squared distance per element, mean over
    the stages sent: ``codebook`` moves codewords to residuals, ``commitment`` residuals to codewords.
    """

    settings: RVQSettings

    def __init__(self, message_size: int, settings: RVQSettings | None = None) -> None:
        settings = RVQSettings() if settings is None else settings
        super().__init__(message_size, settings)
        self.quantiser = ResidualVQ(
            dim=message_size,
            num_quantizers=settings.stages,
            codebook_size=settings.codebook_size,
            learnable_codebook=True,
            ema_update=False,
            rotation_trick=False,
        )
        self._counted = settings.prefix == "random" and settings.stages_sent is None
        self.noise_size = 1 if self._counted else 0

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Start from what is said: a stage's codewords are residuals of messages, with a little noise, as in vq."""
        residuals = self._normalised(messages)
        if not len(residuals):
            return
        for layer in self.quantiser.layers:
            size = self.settings.codebook_size
            chosen = torch.randperm(max(len(residuals), size))[:size] % len(residuals)
            codewords = residuals[chosen]
            layer.codebook = codewords + 0.1 * residuals.std(0, correction=0) * torch.randn_like(codewords)
            residuals = residuals - nn.functional.embedding(_nearest(layer.codebook, residuals), layer.codebook)

    @property
    def _most_sent(self) -> int:
        return self.settings.stages_sent or self.settings.stages

    def alphabet(self) -> Alphabet:
        prefixes = [Alphabet.fixed([self.settings.codebook_size] * count) for count in range(1, self._most_sent + 1)]
        return Alphabet.choice(prefixes) if self._counted else prefixes[-1]

    def _normalised(self, messages: Tensor) -> Tensor:
        """The message over its spread: an unnormalised one would be pulled to 0 by its commitment."""
        size = self.message_size
        return nn.functional.layer_norm(messages, (size,)) if size > 2 else torch.tanh(messages)

    def _books(self) -> list[Tensor]:
        """The codebook [L, D] of each stage that may be sent."""
        return [layer.codebook for layer in self.quantiser.layers[: self._most_sent]]

    @torch.no_grad()
    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        left, found = self._normalised(messages).reshape(-1, self.message_size), []
        for book in self._books():
            found.append(_nearest(book, left))
            left = left - nn.functional.embedding(found[-1], book)
        indices = torch.stack(found, dim=-1).to(torch.int32).view(*messages.shape[:-1], self._most_sent)
        if not self._counted:
            return indices
        if noise is None:
            raise ValueError("rvq with prefix: random needs noise: pass uniform draws of shape [..., 1]")
        last = random.choice(noise, self._most_sent).to(torch.int32)
        return torch.cat([last, indices * self._sent(last)], dim=-1)

    def _sent(self, last: Tensor) -> Tensor:
        """Which stages [..., Q] are sent where the last of them is [..., 1]."""
        return torch.arange(self._most_sent, device=last.device) <= last

    def _split(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """Indices [..., Q] and which of them [..., Q] were sent."""
        if self._counted:
            return symbols[..., 1:], self._sent(symbols[..., :1])
        return symbols, torch.ones_like(symbols, dtype=torch.bool)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        indices, sent = self._split(symbols)
        received = torch.zeros((*symbols.shape[:-1], self.message_size), device=symbols.device)
        for stage, book in enumerate(self._books()):
            codewords = nn.functional.embedding(indices[..., stage], book.detach())
            received = received + codewords * sent[..., stage, None] if self._counted else received + codewords
        return received

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._normalised(messages)

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        indices, sent = self._split(symbols)
        left, codebook, commitment = self._normalised(messages), [], []
        for stage, book in enumerate(self._books()):
            codewords = nn.functional.embedding(indices[..., stage], book)
            codebook.append(nn.functional.mse_loss(codewords, left.detach(), reduction="none").mean(-1))
            commitment.append(nn.functional.mse_loss(left, codewords.detach(), reduction="none").mean(-1))
            left = left - codewords.detach()
        share = sent / sent.sum(-1, keepdim=True)
        return {
            "codebook": (torch.stack(codebook, dim=-1) * share).sum(-1),
            "commitment": (torch.stack(commitment, dim=-1) * share).sum(-1),
        }

    def loss_weights(self) -> dict[str, float]:
        return {"codebook": self.settings.codebook_weight, "commitment": self.settings.commitment_weight}


def _nearest(book: Tensor, vectors: Tensor) -> Tensor:
    """Indices [M] of the codewords [L, D] nearest to vectors [M, D]."""
    # |v - e|^2 without |v|^2, which is the same for every codeword.
    return torch.addmm(book.square().sum(-1), vectors, book.T, alpha=-2).argmin(-1)
