"""Dynamic vector quantisation: each message chooses how tightly it is quantised (Liu et al. 2022).

The published code takes probabilities for logits, which caps the likeliest choice of ten at e / (e + 9), samples its
evaluations, orders its hierarchy the other way round and never measures bits; ``penalty: legacy_code`` brings back the
first and the third, ``evaluate: sampled`` the second.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marlcomm import noise as random
from marlcomm.channels.base import Channel, Peers, Transmission
from marlcomm.channels.codebooks import Normalizer, Upkeep, all_but_counts, key_of, look_up, nearest, tally, words_among
from marlcomm.channels.settings import DVQSettings
from marlcomm.wire.alphabet import Alphabet

_SMALLEST_SHARE = 1e-3


@dataclass(frozen=True)
class _Reading:
    """What a transmission of messages begins with: what every one of N members of the pool makes of them.

    Attributes:
        h: [..., D], the messages, normalised.
        table: of codewords, in pieces (`_Pieces`).
        logits: [..., N] of the learned choice; None for other selectors.
        heard: [..., N, D], or [..., 1, D] where all are given the same: what they quantise, without gradient.
        indices: [..., I] of the nearest codewords, quantiser after quantiser.
        answers: [..., N, D], what a receiver would hear from each: its codewords, with the codebooks' gradient.
    """

    h: Tensor
    table: Tensor
    logits: Tensor | None
    heard: Tensor
    indices: Tensor
    answers: Tensor


class _Pieces(nn.Module):
    """Looks up codewords of a whole pool at once: all codebooks are cut into pieces of one width, rows of one table.

    Each of Q quantisers says P pieces. Piece p belongs to its segment ``segment[q, p]``, and stands in row
    ``first[q, p] + stride[q, p] * index``, where index is the one that it chose for that segment.
    """

    segment: Tensor
    first: Tensor
    stride: Tensor
    column: Tensor

    def __init__(self, pool: list[tuple[int, int]], message_size: int) -> None:
        super().__init__()
        self.width = math.gcd(*(message_size // segments for segments, _ in pool))
        segments, sizes = torch.tensor(pool).T.unsqueeze(-1)
        pieces = torch.arange(message_size // self.width)
        stride = len(pieces) // segments
        segment, base = pieces // stride, (segments * sizes * stride).cumsum(0) - segments * sizes * stride
        self.register_buffer("segment", segment, persistent=False)
        self.register_buffer("first", base + segment * sizes * stride + pieces % stride, persistent=False)
        self.register_buffer("stride", stride.expand_as(segment).contiguous(), persistent=False)
        self.register_buffer("column", segment + segments.cumsum(0) - segments, persistent=False)

    def table(self, books: Iterable[Tensor]) -> Tensor:
        """All codewords of Q codebooks [G, L, D / G]."""
        return torch.cat([book.reshape(-1, self.width) for book in books])

    def all(self, table: Tensor, indices: Tensor) -> Tensor:
        """What every quantiser says, [..., Q, D], by the indices [..., I] that they chose one after another."""
        rows = torch.addcmul(self.first, indices[..., self.column], self.stride)
        return nn.functional.embedding(rows, table).flatten(-2)

    def one(self, table: Tensor, place: Tensor, indices: Tensor) -> Tensor:
        """What the quantisers at places [...] say, [..., D], by their indices [..., I or less]."""
        rows = torch.addcmul(self.first[place], indices.gather(-1, self.segment[place]), self.stride[place])
        return nn.functional.embedding(rows, table).flatten(-2)


class _Buffers(nn.Module):
    """Tensors that no optimiser moves, by their places, as a ParameterList has those that one does."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        for place, tensor in enumerate(tensors):
            self.register_buffer(str(place), tensor)

    def __len__(self) -> int:
        return len(self._buffers)

    def __getitem__(self, place: int) -> Tensor:
        return self.get_buffer(str(place))

    def __iter__(self) -> Iterator[Tensor]:
        return self.buffers()


class DVQChannel(Channel):
    """A selector, and the symbols of the member of the pool that it names.

    Shapes: messages [..., D] are normalised to h; with a learned selector, keys k [N, l] and a query f(h) [..., l] give
    logits k f(h) / sqrt(l) [..., N]. Symbols [..., 1 + S]: the member, then its indices (or the bits of h, of the
    continuous member), then zeros. Received [..., D]: its codewords, side by side.
    The gradient passes straight through to h, and to the selector through the relaxed choice
    softmax((logits + Gumbel noise) / temperature). Losses: ``codebook`` and ``commitment`` as in vq (with
    ``update: ema`` the codewords of all members follow all messages, and there is no ``codebook``), ``capacity`` what
    the choice costs, ``balance`` sum over members of probability times log(N share), where the shares are the
    mean probabilities of the last update: the gradient of minus the entropy of the mean choice, one value per message.

    Attributes:
        books: of each quantiser, [G, L, D / G]; parameters, or buffers with ``update: ema``.
        upkeep: of each quantiser, what moves its codewords besides a loss.
        temperature: of the relaxed choice, now.
        balancing: 1 while choices are balanced, then 0.
        share: [N] mean probability of each member in the last update.
    """

    settings: DVQSettings
    temperature: Tensor
    balancing: Tensor
    share: Tensor
    costs: Tensor
    _columns: Tensor

    def __init__(self, message_size: int, settings: DVQSettings | None = None) -> None:
        settings = DVQSettings() if settings is None else settings
        settings.fit(message_size)
        super().__init__(message_size, settings)
        self.normalize = Normalizer(message_size, settings.normalization)
        books = [torch.randn(g, size, message_size // g) for g, size in settings.pool]
        self.books = nn.ParameterList(books) if settings.update == "loss" else _Buffers(books)
        self.counts = nn.ModuleList(nn.Module() for _ in books)  # what upkeep counts
        self.upkeep = [Upkeep(own, book, settings) for own, book in zip(self.counts, books, strict=True)]
        self.register_buffer("costs", torch.tensor(self._costs()), persistent=False)
        pool, rising = settings.pool, settings.penalty == "legacy_code"
        self._order = sorted(range(len(pool)), key=lambda place: pool[place], reverse=not rising)
        self.pieces = _Pieces(pool, message_size)
        self.register_buffer("_columns", self._places(), persistent=False)
        self._now: _Reading | None = None
        self.noise_size = {"learned": settings.options, "random": 1, "constant": 0}[settings.selector]
        if settings.selector == "learned":
            self.query = nn.Linear(message_size, settings.key_size)
            self.keys = nn.Parameter(torch.randn(settings.options, settings.key_size))
            self.register_buffer("temperature", torch.tensor(settings.temperature))
        if self._balances:
            self.register_buffer("balancing", torch.tensor(1.0))
            self.register_buffer("share", torch.empty(settings.options))
            self._take_shares(torch.randn(256, message_size), Peers())

    @property
    def parameter_count(self) -> int:
        buffers = self.books if self.settings.update == "ema" else ()
        return super().parameter_count + sum(book.numel() for book in buffers)

    @property
    def _balances(self) -> bool:
        settings = self.settings
        return settings.selector == "learned" and settings.balance_weight > 0 and settings.balance_steps > 0

    def _costs(self) -> list[float]:
        """What each member of the pool costs, by `penalty`."""
        settings, size = self.settings, self.message_size
        pool: list[tuple[int, float]] = list(settings.pool)
        if settings.penalty == "bits":
            bits = [g * math.log2(words) for g, words in pool] + [32.0 * size] * settings.continuous
            return [cost + math.log2(settings.options) for cost in bits]
        if settings.penalty == "legacy_paper":
            return [g * math.log(words) for g, words in pool + [(size, 1e9)] * settings.continuous]
        return [g + math.log(words) for g, words in pool + [(size, 9999)] * settings.continuous]

    def alphabet(self) -> Alphabet:
        quantisers = [Alphabet.fixed([size] * g) for g, size in self.settings.pool]
        return Alphabet.choice(quantisers + [Alphabet.raw(self.message_size)] * self.settings.continuous)

    def adopt(self, loaded: Collection[str]) -> bool:
        if not all_but_counts(self.state_dict()) <= set(loaded):
            return False
        for place, (upkeep, book) in enumerate(zip(self.upkeep, self.books, strict=True)):
            prefix = f"counts.{place}."
            upkeep.adopt(book, {name.removeprefix(prefix) for name in loaded if name.startswith(prefix)})
        return True

    @torch.no_grad()
    def calibrate(self, messages: Tensor) -> None:
        """Start from what is said: codewords are segments of what each quantiser is given."""
        if not len(messages):
            return
        self.normalize.absorb(messages, 0, Peers())
        heard = self.normalize(messages)
        for place in self._order:
            book = self.books[place]
            words = [words_among(own, book.shape[1]) for own in _by_segment(heard, book)]
            self.upkeep[place].begin(book, torch.stack(words))
            heard = self._handed_on(place, heard, self._nearest(place, heard))
        if self._balances:
            self._take_shares(messages, Peers())

    # --- the pool ---

    def _nearest(self, place: int, heard: Tensor) -> Tensor:
        """The indices [..., G] that one quantiser gives to its input [..., D]."""
        book = self.books[place]
        return nearest(heard.unflatten(-1, (len(book), -1)), book)

    def _handed_on(self, place: int, heard: Tensor, indices: Tensor) -> Tensor:
        """What the next quantiser is given, [..., D], after one that heard [..., D] and chose indices [..., G]."""
        if self.settings.structure == "flat":
            return heard
        return look_up(self.books[place].detach(), indices).flatten(-2)

    def _places(self) -> Tensor:
        """[N, S]: one more than the place of each member's symbol in `_Reading.indices`, or 0 for none."""
        places = torch.zeros(self.settings.options, self.alphabet().columns - 1, dtype=torch.int64)
        first = 1
        for member, (count, _) in enumerate(self.settings.pool):
            places[member, :count] = torch.arange(first, first + count)
            first += count
        return places

    def _read(self, messages: Tensor) -> _Reading:
        if self._now is not None:
            return self._now
        h = self.normalize(messages)
        logits = self._logits(h) if self.settings.selector == "learned" else None
        heard, indices = self._search(h.detach())
        table = self.pieces.table(self.books)
        answers = self.pieces.all(table, indices)
        if self.settings.continuous:
            answers = torch.cat([answers, h.detach().unsqueeze(-2)], -2)
        return _Reading(h, table, logits, heard, indices, answers)

    def _search(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What the members are given, [..., N or 1, D], and the indices [..., I] of the codewords nearest to it."""
        heard, indices = [h] * self.settings.options, [h] * len(self.books)
        for place in self._order:
            heard[place], indices[place] = h, self._nearest(place, h)
            h = self._handed_on(place, h, indices[place])
        flat = self.settings.structure == "flat"
        return torch.stack(heard[:1] if flat else heard, -2), torch.cat(indices, -1)

    @torch.no_grad()
    def distortions(self, messages: Tensor) -> Tensor:
        """Squared distances per element [..., Q] of messages [..., D], normalised, to what quantisers say of them."""
        reading = self._read(messages.float())
        return (reading.h.unsqueeze(-2) - reading.answers[..., : len(self.books), :]).square().mean(-1)

    # --- the choice ---

    def _logits(self, h: Tensor) -> Tensor:
        """Of the choice between N members, [..., N]."""
        scores: Tensor = self.query(h) @ self.keys.T / math.sqrt(self.settings.key_size)
        return torch.softmax(scores, -1) if self.settings.penalty == "legacy_code" else scores

    def _relaxed(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """The relaxed choice [..., N], which the gradient sees."""
        return torch.softmax(_perturbed(logits, noise) / self.temperature, -1)

    def _choose(self, reading: _Reading, noise: Tensor | None) -> Tensor:
        """The chosen members [...]."""
        if reading.logits is not None:
            certain = self.evaluating and self.settings.evaluate == "argmax"
            return (reading.logits if certain else _perturbed(reading.logits, noise)).argmax(-1)
        if self.settings.selector == "random":
            return random.choice(_needed(noise, "1")[..., 0], self.settings.options)
        return torch.full(reading.h.shape[:-1], self.settings.constant_member, device=reading.h.device)

    # --- the contract ---

    def transmit(self, messages: Tensor, noise: Tensor | None = None) -> Transmission:
        """As in every channel; the pool is searched once for symbols, gradient and losses."""
        if messages.shape[-1] == self.message_size:  # else the base class says what is wrong
            self._now = self._read(messages.float())
        try:
            return super().transmit(messages, noise)
        finally:
            self._now = None

    def encode(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        reading = self._read(messages)
        chosen = self._choose(reading, noise)
        indices = nn.functional.pad(reading.indices, (1, 0)).gather(-1, self._columns[chosen])
        symbols = torch.cat([chosen.unsqueeze(-1), indices], -1).to(torch.int32)
        if self.settings.continuous:
            bits = reading.h.detach().contiguous().view(torch.int32)
            raw = (chosen == len(self.books)).unsqueeze(-1)
            symbols[..., 1:] = torch.where(raw, bits, symbols[..., 1:])
        return symbols

    @torch.no_grad()
    def decode(self, symbols: Tensor, noise: Tensor | None = None) -> Tensor:
        table = self.pieces.table(self.books) if self._now is None else self._now.table
        chosen, symbols = symbols[..., 0].long(), symbols[..., 1:]
        if not self.settings.continuous:
            return self.pieces.one(table, chosen, symbols.long())
        raw = chosen == len(self.books)
        indices = symbols.masked_fill(raw.unsqueeze(-1), 0).long()
        words = self.pieces.one(table, chosen.masked_fill(raw, 0), indices)
        return torch.where(raw.unsqueeze(-1), symbols.contiguous().view(torch.float32), words)

    def surrogate(self, messages: Tensor, noise: Tensor | None = None) -> Tensor:
        reading = self._read(messages)
        if reading.logits is None:
            return reading.h
        # Of sum_t w_t o_t, where o_t = h + (words_t - h).detach() and w is the straight-through choice.
        weights = self._relaxed(reading.logits, noise).unsqueeze(-1)
        return reading.h + (weights * reading.answers.detach()).sum(-2)

    def losses(self, messages: Tensor, symbols: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        reading, chosen = self._read(messages), symbols[..., 0].long()
        error = reading.heard - reading.answers
        losses = {"commitment": _commitment_loss(reading.h, error.detach(), chosen)}
        if self.settings.update == "loss":
            losses["codebook"] = _codebook_loss(error, chosen, self.settings.train_unselected)
        if reading.logits is None:
            return losses
        probabilities = weights = torch.softmax(reading.logits, -1)
        if self.settings.capacity_choice == "one_hot":
            relaxed = self._relaxed(reading.logits, noise)
            weights = nn.functional.one_hot(chosen, self.settings.options) + (relaxed - relaxed.detach())
        losses["capacity"] = weights @ self.costs
        if self._balances:
            losses["balance"] = probabilities @ (self.share.clamp(min=_SMALLEST_SHARE) * self.settings.options).log()
        return losses

    def loss_weights(self) -> dict[str, float]:
        settings = self.settings
        weights = {"commitment": settings.commitment_weight}
        if settings.update == "loss":
            weights["codebook"] = settings.codebook_weight
        if settings.selector == "learned":
            weights["capacity"] = settings.capacity_weight
            if self._balances:
                weights["balance"] = settings.balance_weight * float(self.balancing)
        return weights

    @property
    def absorbs(self) -> bool:
        return self._balances or self.upkeep[0].needed or self.settings.normalization == "running"

    @torch.no_grad()
    def absorb(self, messages: Tensor, env_steps: int, peers: Peers) -> None:
        self.normalize.absorb(messages, self.settings.decay, peers)
        if self._balances:
            self._take_shares(messages, peers)
        if self.upkeep[0].needed:
            self._move_codewords(messages, key_of("dvq/idle codewords", env_steps), peers)

    def _move_codewords(self, messages: Tensor, key: Tensor, peers: Peers) -> None:
        """Move those of every quantiser by what it is given, which the others' moves do not change."""
        heard, given = self.normalize(messages), dict[int, Tensor]()
        for place in self._order:
            given[place] = _by_segment(heard, self.books[place])
            heard = self._handed_on(place, heard, self._nearest(place, heard))
        for place, segments in given.items():
            book = self.books[place]
            told = tally(segments, book, peers)
            if told[0].any():  # else nobody spoke
                self.upkeep[place].move(book, segments, told, random.absorb(key, place), peers)

    @torch.no_grad()
    def _take_shares(self, messages: Tensor, peers: Peers) -> None:
        probabilities = torch.softmax(self._logits(self.normalize(messages)), -1).double()
        total = peers.sum(probabilities.sum(0))
        if total.any():
            self.share.copy_(total / total.sum())

    def after_update(self, env_steps: int) -> None:
        settings = self.settings
        if settings.selector == "learned":  # also where a parent's had half fallen
            steps = settings.temperature_steps
            way = min(env_steps / steps, 1.0) if steps else 0.0
            self.temperature.fill_(settings.temperature + way * (settings.final_temperature - settings.temperature))
        if self._balances:
            self.balancing.fill_(float(env_steps < settings.balance_steps))


def _by_segment(heard: Tensor, book: Tensor) -> Tensor:
    """The segments [G, M, D / G] of vectors [M, D] under the codebooks [G, L, D / G] that they belong to."""
    segments: Tensor = heard.unflatten(-1, (len(book), -1)).transpose(0, 1)
    return segments


def _codebook_loss(error: Tensor, chosen: Tensor, train_unselected: float) -> Tensor:
    """Squared distances per element [...] of the codewords of all members to what they quantise, [..., N, D] off."""
    own = chosen.unsqueeze(-1) == torch.arange(error.shape[-2], device=error.device)
    return (torch.where(own, 1.0, train_unselected) * error.square().mean(-1)).sum(-1)


def _commitment_loss(h: Tensor, error: Tensor, chosen: Tensor) -> Tensor:
    """Squared distances per element [...] of messages [..., D] to the codewords of the chosen members."""
    # What came before in a hierarchy is passed straight through, so that h moves as if it was quantised itself.
    return (h + (_picked(error, chosen) - h).detach()).square().mean(-1)


def _picked(answers: Tensor, chosen: Tensor) -> Tensor:
    """The chosen ones [...] of answers [..., N, D]."""
    place = chosen[..., None, None].expand(*chosen.shape, 1, answers.shape[-1])
    return answers.gather(-2, place).squeeze(-2)


def _perturbed(logits: Tensor, noise: Tensor | None) -> Tensor:
    """Logits [..., N] plus Gumbel noise: their arg-max is an exact sample."""
    return logits + random.gumbel(_needed(noise, "N"))


def _needed(noise: Tensor | None, draws: str) -> Tensor:
    if noise is None:
        raise ValueError(f"dvq needs noise: pass uniform draws of shape [..., {draws}]")
    return noise
