"""Vector quantisation: each segment of a message is named by its nearest codeword (van den Oord 2017, Liu et al. 2021).

By default the codebook is a parameter that learns from its loss through the optimiser, so it travels with the weights.
With ``update: ema`` it is a buffer that follows the mean of the messages that chose each codeword. Either way nothing
moves while sampling: statistics of messages are taken once an update, over all learners.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from marlcomm.channels.base import Channel, Peers
from marlcomm.channels.codebooks import (
    Normalizer,
    Upkeep,
    all_but_counts,
    k_means,
    key_of,
    look_up,
    nearest,
    tally,
    words_among,
)
from marlcomm.channels.settings import VQSettings
from marlcomm.wire.alphabet import Alphabet


class VQChannel(Channel):
    """The index of the nearest codeword, for each of G segments.

    Shapes: messages [..., D] are normalised (a vanishing message would be pulled to one codeword) and cut into G
    segments of D / G; symbols [..., G] in 0 .. L - 1; received [..., D], the codewords side by side.
    The gradient passes straight through to the normalised message. Losses, in squared distance per element:
    ``codebook`` (not with ``update: ema``) moves codewords to messages, ``commitment`` messages to codewords.

    Attributes:
        codebook: [B, L, D / G], B = G or 1 where it is shared; a parameter, or a buffer with ``update: ema``.
        upkeep: what moves codewords besides a loss.
        clustered: 1 where k-means was run, else 0 (with ``init: kmeans``).
    """

    settings: VQSettings
    codebook: Tensor
    clustered: Tensor

    def __init__(self, message_size: int, settings: VQSettings | None = None) -> None:
        settings = VQSettings() if settings is None else settings
        settings.fit(message_size)
        super().__init__(message_size, settings)
        self.width = message_size // settings.segments
        self.normalize = Normalizer(message_size, settings.normalization)
        codebook = torch.randn(1 if settings.shared_codebook else settings.segments, settings.codebook_size, self.width)
        if settings.update == "loss":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.upkeep = Upkeep(self, codebook, settings)
        if settings.init == "kmeans":
            self.register_buffer("clustered", torch.tensor(0))

    @property
    def parameter_count(self) -> int:
        return super().parameter_count + (self.codebook.numel() if self.settings.update == "ema" else 0)

    def adopt(self, loaded: Collection[str]) -> bool:
        if not all_but_counts(self.state_dict()) <= set(loaded):
            return False
        self.upkeep.adopt(self.codebook, loaded)
        return True

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Start from what is said: each codeword is a message's segment, with a little noise."""
        if not len(messages):
            return
        self.normalize.absorb(messages, 0, Peers())
        words = [words_among(heard, self.settings.codebook_size) for heard in self._by_book(messages)]
        self.upkeep.begin(self.codebook, torch.stack(words))

    def alphabet(self) -> Alphabet:
        return Alphabet.fixed([self.settings.codebook_size] * self.settings.segments)

    def _segments(self, messages: Tensor) -> Tensor:
        """Normalised segments [..., G, D / G]."""
        normalised: Tensor = self.normalize(messages)
        segments: Tensor = normalised.unflatten(-1, (self.settings.segments, self.width))
        return segments

    def _by_book(self, messages: Tensor) -> Tensor:
        """Normalised segments of messages [M, D] under the codebook they belong to: [B, M (or G M), D / G]."""
        segments = self._segments(messages).transpose(0, 1)
        return segments.reshape(1, -1, self.width) if self.settings.shared_codebook else segments

    def _codebooks(self) -> Tensor:
        return self.codebook.expand(self.settings.segments, -1, -1)

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        return nearest(self._segments(messages), self._codebooks()).to(torch.int32)

    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        return look_up(self._codebooks().detach(), symbols).flatten(-2)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        normalised: Tensor = self.normalize(messages)
        return normalised

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        segments, codewords = self._segments(messages), look_up(self._codebooks(), symbols)
        losses = {"commitment": (segments - codewords.detach()).square().mean((-1, -2))}
        if self.settings.update == "loss":
            losses["codebook"] = (segments.detach() - codewords).square().mean((-1, -2))
        return losses

    def loss_weights(self) -> dict[str, float]:
        weights = {"commitment": self.settings.commitment_weight}
        return weights | ({"codebook": self.settings.codebook_weight} if self.settings.update == "loss" else {})

    @property
    def _moves_codewords(self) -> bool:
        return self.upkeep.needed or self.settings.init == "kmeans"

    @property
    def absorbs(self) -> bool:
        return self._moves_codewords or self.settings.normalization == "running"

    @torch.no_grad()
    def absorb(self, messages: Tensor, env_steps: int, peers: Peers) -> None:
        """Running statistics first, so that codewords move in the coordinates in which the next round speaks."""
        self.normalize.absorb(messages, self.settings.decay, peers)
        if not self._moves_codewords:
            return
        segments = self._by_book(messages)
        told = tally(segments, self.codebook, peers)
        if not told[0].any():  # nobody spoke
            return
        if self.settings.init == "kmeans" and not self.clustered and env_steps >= self.settings.init_after:
            centres = k_means(segments, self.codebook, key_of("vq/k-means", env_steps), peers)
            self.upkeep.begin(self.codebook, *centres)
            self.clustered.fill_(1)
            return
        self.upkeep.move(self.codebook, segments, told, key_of("vq/idle codewords", env_steps), peers)
