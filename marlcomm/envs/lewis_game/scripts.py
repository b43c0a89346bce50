"""Scripted teams of the Lewis game: what silence is worth, what one and two arbitrary tokens are, and the ceiling.

A sender that sees the target alone can do no more than name a class of objects. With 80 words, the best code makes all
classes equally likely; a hash of the object does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import TeamEnv
from marlcomm.envs.lewis_game.symbols import Objects, minimum_symbols
from marlcomm.envs.lewis_game.world import RECEIVER, LewisGame
from marlcomm.envs.scripts import random_actions

_WORDS = 80  # attributes times values, as published
_OBJECTS_AT_ONCE = 2**18


def silent(env: TeamEnv) -> Tensor:
    """Nothing is said: any candidate that would need as many symbols as all targets do. The floor, and exact.

    Candidates are independent and alike, and the target is any of them that has the minimum of the rounds: who sees
    them all knows which do, and no more.
    """
    world = _checked(env)
    return _receiver(world, _eligible(world))


def one_token(env: TeamEnv) -> Tensor:
    """One word of 80: any candidate of the class that is named."""
    world = _checked(env)
    return _receiver(world, _named(world, _WORDS))


def two_tokens(env: TeamEnv) -> Tensor:
    """Two words of 80."""
    world = _checked(env)
    return _receiver(world, _named(world, _WORDS**2))


def one_token_and_minimum(env: TeamEnv) -> Tensor:
    """One word of 80 to a receiver that also knows what silence tells it."""
    world = _checked(env)
    return _receiver(world, _named(world, _WORDS) & _eligible(world))


def oracle(env: TeamEnv) -> Tensor:
    """The receiver is told which candidate it is: the ceiling."""
    world = _checked(env)
    return _receiver(world, torch.arange(world.game.candidates, device=world.device) == world.target.unsqueeze(1))


def _checked(env: TeamEnv) -> LewisGame:
    assert isinstance(env, LewisGame)
    return env


def _receiver(world: LewisGame, wanted: Tensor) -> Tensor:
    """Actions [B, N]: the receiver chooses the first of the wanted candidates [B, K], whose order is random."""
    actions = torch.zeros((world.num_worlds, world.spec.num_agents), dtype=torch.int64, device=world.device)
    actions[:, RECEIVER] = wanted.to(torch.uint8).argmax(1)
    return actions


def _named(world: LewisGame, words: int) -> Tensor:
    """[B, K] bool, which candidates are in the target's class of so many."""
    factors = world.game.values ** torch.arange(world.game.attributes, device=world.device)  # may wrap: still a hash
    numbers = (world.candidates.long() * factors).sum(2)
    classes = noise.mix(numbers) % words
    return classes == classes.gather(1, world.target.unsqueeze(1))


def _eligible(world: LewisGame) -> Tensor:
    """[B, K] bool, which candidates need the minimum of the rounds to be told from all others."""
    objects, wanted = world.candidates.cpu().numpy(), world.game.min_symbols
    worlds = max(_OBJECTS_AT_ONCE // objects[0].size, 1)
    parts = [_minima(objects[first : first + worlds], wanted) for first in range(0, len(objects), worlds)]
    return torch.cat(parts).to(world.device) == wanted


def _minima(objects: Objects, most: int) -> Tensor:
    """The minimum of each candidate [B, K] of objects [B, K, A], were it the target; 0 where it is more than `most`."""
    candidates = objects.shape[1]
    minima = []
    for place in range(candidates):
        order = [place, *range(place), *range(place + 1, candidates)]
        minima.append(torch.from_numpy(minimum_symbols(objects[:, order], most)))
    return torch.stack(minima, dim=1)


SCRIPTS = {
    "random": random_actions,
    "silent": silent,
    "one_token": one_token,
    "one_token_and_minimum": one_token_and_minimum,
    "two_tokens": two_tokens,
    "oracle": oracle,
}
