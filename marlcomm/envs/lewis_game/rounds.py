"""Rounds of the Lewis game with a given min |M|, drawn until there are enough (SMS paper, algorithm 2), and stored.

Round r of a split is the r-th one accepted of a sequence of rounds that is keyed by (seed, split): more rounds begin
with the same ones, and rounds of two splits never share a draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from marlcomm import noise
from marlcomm.envs.lewis_game.settings import Game
from marlcomm.envs.lewis_game.symbols import Ints, Objects, minimum_symbols
from marlcomm.registry import ConfigError

RAREST = 1e-4  # share of random rounds below which a minimum is not waited for

_NUMBERS_AT_ONCE = 2**22
_CERTAIN = 200  # accepted rounds after which an estimate is good enough
_MOST_DRAWS = 2**17  # of an estimate: thirteen acceptances are expected at the rarest share
_TRIED_DRAWS = 200  # of each number of distractors that might be better
_MOST_DISTRACTORS = 1023
_COMMON = 0.05  # share of random rounds that is recommended


@dataclass(frozen=True, eq=False)
class Rounds:
    """Stored rounds, [R, K, A] each, with the target first: whoever plays them puts the candidates in another order.

    Attributes:
        game: what they are made of.
        seed: they were made from.
        training: rounds to learn from.
        validation: others, to evaluate on.
    """

    game: Game
    seed: int
    training: Objects
    validation: Objects


@dataclass(frozen=True)
class Acceptance:
    """How many of so many random rounds have the minimum that is wanted."""

    accepted: int
    draws: int

    @property
    def share(self) -> float:
        return self.accepted / self.draws

    def __str__(self) -> str:
        return f"{self.share:.2%}" if self.accepted else f"less than 1 in {self.draws:,}"


def build_rounds(
    game: Game, training: int, validation: int, seed: int, watch: Callable[[int], None] = lambda found: None
) -> Rounds:
    """Make rounds; `watch` is told how many there are so far. Raises `ConfigError` where they are too rare."""
    refuse_rare(game)
    for_training = accepted(game, training, seed, "training", watch)
    for_validation = accepted(game, validation, seed, "validation", lambda found: watch(training + found))
    return Rounds(game, seed, for_training, for_validation)


def draw(game: Game, seed: int, stream: str, first: int, count: int) -> Objects:
    """The random rounds from number `first` on of a sequence, [count, K, A], whatever their minima are."""
    root = torch.tensor(seed, dtype=torch.int64, device="cpu")
    keys = noise.absorb(noise.absorb(root, noise.stream_number(f"lewis_game rounds/{stream}")), _range(first, count))
    numbers = game.candidates * game.attributes
    # Sixteen bits decide a value: exactly alike where V is a power of two, and to 1 in 4,096 where not.
    bits = noise.words(keys, -(-numbers // 4)).numpy().view(np.uint16)[:, :numbers]
    values = (bits.astype(np.uint32) * game.values) >> 16
    return values.astype(np.uint8).reshape(count, game.candidates, game.attributes)


def _range(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count, dtype=torch.int64, device="cpu")


def accepted(
    game: Game, wanted: int, seed: int, split: str, watch: Callable[[int], None] = lambda found: None
) -> Objects:
    """The first rounds of a split that have the game's minimum, [wanted, K, A]."""
    parts, found, drawn, count = list[Objects](), 0, 0, _at_once(game)
    while found < wanted:
        rounds = draw(game, seed, split, drawn, count)
        parts.append(rounds[minimum_symbols(rounds, game.min_symbols) == game.min_symbols])
        drawn, found = drawn + count, found + len(parts[-1])
        watch(min(found, wanted))
    return np.concatenate(parts)[:wanted]


def _at_once(game: Game) -> int:
    return max(_NUMBERS_AT_ONCE // (game.candidates * game.attributes), 1)


def acceptance(game: Game) -> Acceptance:
    """How often a random round has the game's minimum, to about 7 % of its share where it is not rare."""
    accepted = drawn = 0
    while accepted < _CERTAIN and drawn < _MOST_DRAWS:
        count = min(_at_once(game), _MOST_DRAWS - drawn)
        minima = minimum_symbols(draw(game, 0, "estimate", drawn, count), game.min_symbols)
        accepted, drawn = accepted + int((minima == game.min_symbols).sum()), drawn + count
    return Acceptance(accepted, drawn)


def refuse_rare(game: Game) -> Acceptance:
    """How often random rounds have the game's minimum; raises `ConfigError` where that is too rare to wait for."""
    found = acceptance(game)
    if found.share >= RAREST:
        return found
    occurring = _frequent_minima(game)
    raise ConfigError(
        f"env.min_symbols: got {game.min_symbols}, wanted one that occurs: with {game.distractors} distractors "
        f"{found} random rounds need so many, and fewer than {RAREST:g} are not waited for "
        f"({occurring}; {_better_distractors(game)})"
    )


def _frequent_minima(game: Game) -> str:
    """What minima there are, in words."""
    minima = Counter(minimum_symbols(draw(game, 0, "minima", 0, _TRIED_DRAWS), min(game.attributes, 6)).tolist())
    shares = [f"{size} ({count / _TRIED_DRAWS:.0%})" for size, count in sorted(minima.items()) if size]
    return f"there min_symbols may be {' or '.join(shares)}" if shares else "no round there can be solved"


def _better_distractors(game: Game) -> str:
    """The nearest number of distractors with which every other round has the minimum or so, in words."""
    fewer = _minima(game).mean() > game.min_symbols  # more distractors need more symbols
    low, high = (1, game.distractors) if fewer else (game.distractors, _MOST_DISTRACTORS)
    while high - low > 1:
        tried = round((low * high) ** 0.5)
        minima = _minima(replace(game, distractors=tried))
        enough = (minima <= game.min_symbols if fewer else minima >= game.min_symbols).mean() > 0.5
        low, high = (tried, high) if enough == fewer else (low, tried)
    nearest = low if fewer else high
    share = (_minima(replace(game, distractors=nearest)) == game.min_symbols).mean()
    if share < _COMMON:
        return f"no number of distractors up to {_MOST_DISTRACTORS} makes {game.min_symbols} frequent"
    return f"nearest: distractors {nearest}, where {share:.0%} of the rounds need {game.min_symbols}"


def _minima(game: Game) -> Ints:
    """The minima of some random rounds, up to the one that is wanted; where they are higher, one more than that."""
    minima = minimum_symbols(draw(game, 0, "distractors", 0, _TRIED_DRAWS), game.min_symbols)
    return np.where(minima == 0, game.min_symbols + 1, minima)
