"""What quantisers with codebooks share: normalised messages, nearest codewords, statistics of what was said."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from marlcomm import noise
from marlcomm.channels.base import Peers
from marlcomm.channels.settings import CodebookSettings, Normalization

_VARIANCE_FLOOR = 1e-5
_DISTANCES_AT_ONCE = 2**24
_LLOYD_ROUNDS = 10


class Normalizer(nn.Module):
    """Brings messages [..., D] to the scale of codewords: a vanishing message would be pulled to a single one.

    ``layer`` knows no state. ``running`` standardises each element by statistics in buffers, which change in `absorb`
    only. ``none`` changes nothing.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, kind: Normalization) -> None:
        super().__init__()
        self.size, self.kind = size, kind
        if kind == "running":
            self.register_buffer("mean", torch.zeros(size))
            self.register_buffer("variance", torch.ones(size))

    def forward(self, messages: Tensor) -> Tensor:
        if self.kind == "none":
            return messages
        if self.kind == "running":
            return (messages - self.mean) * torch.rsqrt(self.variance + _VARIANCE_FLOOR)
        # Over the whole message: of one or two elements alone, a layer norm would keep a sign and no gradient.
        return nn.functional.layer_norm(messages, (self.size,)) if self.size > 2 else torch.tanh(messages)

    @torch.no_grad()
    def absorb(self, messages: Tensor, decay: float, peers: Peers) -> None:
        """Move running statistics to those of messages [M, D], of all learners, by a share of 1 - decay."""
        if self.kind != "running":
            return
        wide = messages.double()
        number, total, squares = peers.sum(
            torch.stack([torch.ones_like(wide).sum(0), wide.sum(0), wide.square().sum(0)])
        )
        if number[0]:
            mean = total / number
            self.mean.lerp_(mean.float(), 1 - decay)
            self.variance.lerp_((squares / number - mean.square()).clamp(min=0).float(), 1 - decay)


class Upkeep:
    """Moves the codewords of a codebook [B, L, w] once an update: what a loss does not do, or not alone.

    With ``update: ema`` they follow the mean of the messages that chose them; with ``replace_after``, messages take the
    place of those that nobody chose for so many updates. Otherwise nothing moves.

    What it counts are buffers of a module, with which they travel: ``usage`` [B, L] and ``totals`` [B, L, w], ema's
    running counts and sums of the segments that chose each codeword, and, with ``replace_after``, ``idle`` [B, L],
    updates since anybody chose each.
    """

    def __init__(self, module: nn.Module, codebook: Tensor, settings: CodebookSettings) -> None:
        self.module, self.settings = module, settings
        if settings.update == "ema":
            module.register_buffer("usage", torch.ones(codebook.shape[:-1]))
            module.register_buffer("totals", codebook.detach().clone())
        if settings.replace_after is not None:
            module.register_buffer("idle", torch.zeros(codebook.shape[:-1], dtype=torch.int64))

    @property
    def needed(self) -> bool:
        return self.settings.update == "ema" or self.settings.replace_after is not None

    @property
    def _running(self) -> tuple[Tensor, Tensor]:
        return self.module.get_buffer("usage"), self.module.get_buffer("totals")

    @torch.no_grad()
    def adopt(self, codebook: Tensor, loaded: Collection[str]) -> None:
        """Begin with a codebook that was loaded, if what counts for it was not, by their names in the module."""
        if self.settings.update == "ema" and not {"usage", "totals"} <= set(loaded):
            self.begin(codebook, codebook)

    @torch.no_grad()
    def begin(self, codebook: Tensor, words: Tensor, counts: Tensor | float = 1.0) -> None:
        """Put words [B, L, w] in place; ema starts as if each was the mean of so many messages, [B, L] or all alike."""
        codebook.copy_(words)
        if self.settings.update == "ema":
            usage, totals = self._running
            usage.copy_(torch.as_tensor(counts).clamp(min=1).expand_as(usage))
            totals.copy_(codebook * usage.unsqueeze(-1))
        if self.settings.replace_after is not None:
            self.module.get_buffer("idle").zero_()

    @torch.no_grad()
    def move(self, codebook: Tensor, segments: Tensor, told: tuple[Tensor, Tensor], key: Tensor, peers: Peers) -> None:
        """Move codewords by the segments [B, M, w] of an update, of which `tally` told; the key is of this codebook."""
        counts, sums = told
        if self.settings.update == "ema":
            self._follow(codebook, counts, sums)
        if self.settings.replace_after is not None:
            idle = self.module.get_buffer("idle")
            dead = idle.add_(1).masked_fill_(counts > 0, 0) >= self.settings.replace_after
            self._replace(codebook, dead, segments, key, peers)
            idle.masked_fill_(dead, 0)

    def _follow(self, codebook: Tensor, counts: Tensor, sums: Tensor) -> None:
        """One step of the running means: codewords = totals / smoothed counts."""
        usage, totals = self._running
        usage.lerp_(counts.float(), 1 - self.settings.decay)
        totals.lerp_(sums.float(), 1 - self.settings.decay)
        everything, smoothing = usage.sum(-1, keepdim=True), self.settings.smoothing
        share = (usage + smoothing) / (everything + codebook.shape[1] * smoothing)
        codebook.copy_(totals / (share * everything).unsqueeze(-1))

    def _replace(self, codebook: Tensor, dead: Tensor, segments: Tensor, key: Tensor, peers: Peers) -> None:
        """Put messages of this update in place of dead [B, L] codewords; all learners agree on which these are."""
        for book in dead.any(-1).nonzero().flatten().tolist():
            heard = peers.gather(segments[book])
            words = drawn(heard, int(dead[book].sum()), noise.absorb(key, book))
            codebook[book, dead[book]] = words
            if self.settings.update == "ema":
                usage, totals = self._running
                usage[book, dead[book]] = 1.0
                totals[book, dead[book]] = words


def all_but_counts(state: Iterable[str]) -> set[str]:
    """The names in a state without those of what an `Upkeep` counts."""
    return {name for name in state if name.rpartition(".")[2] not in ("usage", "totals", "idle")}


def key_of(purpose: str, env_steps: int) -> Tensor:
    """The key of a draw at a point of the training: a run that was resumed there draws the same."""
    return noise.absorb(torch.tensor(noise.stream_number(purpose)), env_steps)


@torch.no_grad()
def nearest(segments: Tensor, books: Tensor) -> Tensor:
    """The index [..., G] of the codeword in books [G, L, w] that is nearest to each of segments [..., G, w]."""
    # Largest s e - |e|^2 / 2: the distance without |s|^2, which is the same for every codeword.
    rows = segments.reshape(-1, *books.shape[::2]).transpose(0, 1)
    closeness = torch.baddbmm(books.square().sum(-1).unsqueeze(1), rows, books.transpose(1, 2), beta=-0.5)
    return closeness.max(-1).indices.transpose(0, 1).reshape(segments.shape[:-1])


def look_up(books: Tensor, symbols: Tensor) -> Tensor:
    """The codewords [..., G, w] in books [G, L, w] of symbols [..., G]."""
    offsets = torch.arange(len(books), device=symbols.device) * books.shape[1]
    return nn.functional.embedding(symbols.long() + offsets, books.reshape(-1, books.shape[-1]))


def words_among(segments: Tensor, size: int) -> Tensor:
    """Codewords [L, w] from segments [M, w] of what an untrained team says, drawn by torch's generator.

    Its messages differ little, and random codewords would give them all one name. A little noise keeps two codewords
    from being the same.
    """
    chosen = torch.randperm(max(len(segments), size), device=segments.device)[:size] % len(segments)
    words = segments[chosen]
    return words + 0.1 * segments.std(0, correction=0) * torch.randn_like(words)


def drawn(rows: Tensor, count: int, key: Tensor) -> Tensor:
    """`count` of the rows [M, w], by a systematic sample that depends on the key and on the set of rows alone.

    Rows are put in order along a direction drawn from the key, so it makes no difference how learners share them.
    """
    direction = noise.uniform(key, rows.shape[-1]).to(rows) - 0.5
    ordered = rows[(rows @ direction).argsort(stable=True)]
    start = noise.uniform(noise.absorb(key, rows.shape[-1])).to(rows.device)
    places = (torch.arange(count, device=rows.device) + start) * (len(rows) / count)
    return ordered[places.long().clamp(max=len(rows) - 1)]


def tally(segments: Tensor, books: Tensor, peers: Peers) -> tuple[Tensor, Tensor]:
    """How many of the segments [B, M, w] of all learners chose each codeword of books [B, L, w], and their sums.

    Returns counts [B, L] and sums [B, L, w], in float64: it makes no difference how learners share the messages.
    """
    number, size, width = books.shape
    both = books.new_zeros((number, size, width + 1), dtype=torch.float64)
    for total, book, heard in zip(both, books, segments, strict=True):
        for part in heard.split(max(_DISTANCES_AT_ONCE // size, 1)):
            chosen = nearest(part.unsqueeze(1), book.unsqueeze(0)).squeeze(1)
            total.index_add_(0, chosen, nn.functional.pad(part, (0, 1), value=1.0).double())
    both = peers.sum(both)
    return both[..., -1], both[..., :-1]


def k_means(segments: Tensor, books: Tensor, key: Tensor, peers: Peers) -> tuple[Tensor, Tensor]:
    """Lloyd's rounds from a draw of the segments [B, M, w] of all learners, in the shape of books [B, L, w].

    Returns centres [B, L, w] and how many segments [B, L] the last round gave to each. A centre that nobody chooses
    stays where it is.
    """
    size = books.shape[1]
    different = [torch.unique(peers.gather(heard), dim=0) for heard in segments]
    centres = torch.stack([drawn(heard, size, noise.absorb(key, book)) for book, heard in enumerate(different)])
    counts = centres.new_zeros(centres.shape[:-1])
    for _ in range(_LLOYD_ROUNDS):
        counts, sums = tally(segments, centres, peers)
        means = sums / counts.clamp(min=1).unsqueeze(-1)
        centres = torch.where(counts.unsqueeze(-1) > 0, means.float(), centres)
    return centres, counts.float()
