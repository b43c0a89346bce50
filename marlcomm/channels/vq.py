"""Vector quantisation: each segment of a message is named by its nearest codeword (van den Oord 2017, Liu et al. 2021).

The codebook is a parameter and learns from its loss through the optimiser, so it travels with the weights and is
never touched while sampling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel
from marlcomm.channels.settings import VQSettings
from marlcomm.wire.alphabet import Alphabet


class VQChannel(Channel):
    """The index of the nearest codeword, for each of G segments.

    Shapes: messages [..., D] are normalised (a vanishing message would be pulled to one codeword) and cut into G
    segments of D / G; symbols [..., G] in 0 .. L - 1; received [..., D], the codewords side by side.
    The gradient passes straight through to the normalised message. Losses, in squared distance per element:
    ``codebook`` moves codewords to messages, ``commitment`` messages to codewords.
    """

    settings: VQSettings

    def __init__(self, message_size: int, settings: VQSettings | None = None) -> None:
        settings = VQSettings() if settings is None else settings
        settings.fit(message_size)
        super().__init__(message_size, settings)
        self.width = message_size // settings.segments
        books = 1 if settings.shared_codebook else settings.segments
        self.codebook = nn.Parameter(torch.randn(books, settings.codebook_size, self.width))

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Start from what is said: an untrained team's messages differ little, and random codewords would hide it.

        Each codeword is a message's segment, with a little noise so that no two are the same.
        """
        segments = self._segments(messages).transpose(0, 1)  # [G, M, D / G]
        if self.settings.shared_codebook:
            segments = segments.flatten(0, 1).unsqueeze(0)
        for book, heard in zip(self.codebook, segments, strict=True):
            if heard.shape[0]:
                chosen = torch.randperm(max(len(heard), len(book)))[: len(book)] % len(heard)
                book.copy_(heard[chosen] + 0.1 * heard.std(0, correction=0) * torch.randn_like(book))

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([self.settings.codebook_size] * self.settings.segments)

    def _segments(self, messages: Tensor) -> Tensor:
        """Normalised segments [..., G, D / G]."""
        # Over the whole message: of one or two elements alone, a layer norm would keep a sign and no gradient.
        size = self.message_size
        normalised = nn.functional.layer_norm(messages, (size,)) if size > 2 else torch.tanh(messages)
        segments: Tensor = normalised.unflatten(-1, (self.settings.segments, self.width))
        return segments

    def _codebooks(self) -> Tensor:
        return self.codebook.expand(self.settings.segments, -1, -1)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        segments, books = self._segments(messages), self._codebooks()
        # |s - e|^2 without |s|^2, which is the same for every codeword.
        distance = books.square().sum(-1) - 2 * torch.einsum("...gw,glw->...gl", segments, books)
        return distance.argmin(-1).to(torch.int32)

    def _look_up(self, symbols: Tensor) -> Tensor:
        """Codewords [..., G, D / G] of symbols [..., G]."""
        offsets = torch.arange(self.settings.segments, device=symbols.device) * self.settings.codebook_size
        return self._codebooks().reshape(-1, self.width)[symbols.long() + offsets]

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._look_up(symbols).detach().flatten(-2)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._segments(messages).flatten(-2)

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        segments, codewords = self._segments(messages), self._look_up(symbols)
        return {
            "codebook": (segments.detach() - codewords).square().mean((-1, -2)),
            "commitment": (segments - codewords.detach()).square().mean((-1, -2)),
        }

    def loss_weights(self) -> dict[str, float]:
        return {"codebook": self.settings.codebook_weight, "commitment": self.settings.commitment_weight}
