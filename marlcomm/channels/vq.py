"""Vector quantisation: each segment of a message is named by its nearest codeword (van den Oord 2017, Liu et al. 2021).

By default the codebook is a parameter that learns from its loss through the optimiser, so it travels with the weights.
With ``update: ema`` it is a buffer that follows the mean of the messages that chose each codeword. Either way nothing
moves while sampling: statistics of messages are taken once an update, over all learners.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcomm import noise as random
from marlcomm.channels.base import Channel, Peers
from marlcomm.channels.codebooks import Normalizer, drawn, k_means, look_up, nearest, tally, words_among
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
        usage, totals: [B, L] and [B, L, D / G], ema's running counts and sums of the segments that chose each codeword.
        idle: [B, L], updates since anybody chose each codeword (with ``replace_after``).
        clustered: 1 where k-means was run, else 0 (with ``init: kmeans``).
    """

    settings: VQSettings
    codebook: Tensor
    usage: Tensor
    totals: Tensor
    idle: Tensor
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
            self.register_buffer("usage", torch.ones(codebook.shape[:-1]))
            self.register_buffer("totals", codebook.clone())
        if settings.replace_after:
            self.register_buffer("idle", torch.zeros(codebook.shape[:-1], dtype=torch.int64))
        if settings.init == "kmeans":
            self.register_buffer("clustered", torch.tensor(0))

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Start from what is said: each codeword is a message's segment, with a little noise."""
        if not len(messages):
            return
        self.normalize.absorb(messages, 0, Peers())
        words = [words_among(heard, self.settings.codebook_size) for heard in self._by_book(messages)]
        self._start_from(torch.stack(words), torch.ones(()))

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
        settings = self.settings
        return settings.update == "ema" or settings.init == "kmeans" or settings.replace_after is not None

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
        counts, sums = tally(segments, self.codebook, peers)
        if not counts.any():  # nobody spoke
            return
        if self.settings.init == "kmeans" and not self.clustered and env_steps >= self.settings.init_after:
            self._start_from(*k_means(segments, self.codebook, _key("k-means", env_steps), peers))
            self.clustered.fill_(1)
            return
        if self.settings.update == "ema":
            self._follow(counts, sums)
        if self.settings.replace_after is not None:
            self.idle.add_(1).masked_fill_(counts > 0, 0)
            self._replace(self.idle >= self.settings.replace_after, segments, env_steps, peers)

    def _start_from(self, codebook: Tensor, counts: Tensor) -> None:
        """Put codewords [B, L, D / G] in place; ema starts as if each was the mean of so many messages."""
        self.codebook.copy_(codebook)
        if self.settings.update == "ema":
            self.usage.copy_(counts.clamp(min=1).expand_as(self.usage))
            self.totals.copy_(codebook * self.usage.unsqueeze(-1))

    def _follow(self, counts: Tensor, sums: Tensor) -> None:
        """One step of the running means: codewords = totals / smoothed counts."""
        self.usage.lerp_(counts.float(), 1 - self.settings.decay)
        self.totals.lerp_(sums.float(), 1 - self.settings.decay)
        everything, smoothing = self.usage.sum(-1, keepdim=True), self.settings.smoothing
        share = (self.usage + smoothing) / (everything + self.settings.codebook_size * smoothing)
        self.codebook.copy_(self.totals / (share * everything).unsqueeze(-1))

    def _replace(self, dead: Tensor, segments: Tensor, env_steps: int, peers: Peers) -> None:
        """Put messages of this update in place of dead [B, L] codewords; all learners agree on which these are."""
        for book in dead.any(-1).nonzero().flatten().tolist():
            heard = peers.gather(segments[book])
            words = drawn(heard, int(dead[book].sum()), random.absorb(_key("idle codewords", env_steps), book))
            self.codebook[book, dead[book]] = words
            self.idle[book, dead[book]] = 0
            if self.settings.update == "ema":
                self.usage[book, dead[book]] = 1.0
                self.totals[book, dead[book]] = words


def _key(purpose: str, env_steps: int) -> Tensor:
    """The key of a draw at a point of the training: a run that was resumed there draws the same."""
    return random.absorb(torch.tensor(random.stream_number(f"vq/{purpose}")), env_steps)
