"""Counter-based random numbers: a draw is a hash of who asks and when, never of what was drawn before.

A key names a world of a run: ``world_keys(seed, stream, worlds, episodes)``. A draw mixes further counters
into the key (step, agent slot, dimension), so the same draw comes out whatever the batch, the order of calls,
the process or the device. The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood 2014) on wrapping
64-bit integers.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, the 64-bit golden ratio, as a signed integer
_MULTIPLIER_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = -7723592293110705685  # 0x94D049BB133111EB
# What worlds are played for: training, short evaluations during it, choices of settings, results, the fit of codes, the
# first words of a channel, and measured references. Who makes something smaller of keys keeps these apart.
STREAMS = ("train", "validation", "tuning", "evaluation", "code", "calibration", "card")

_UNIFORM_BITS = 23  # plus the half below: every value, and its distance to 1, is exact in float32


def stream_number(name: str) -> int:
    """The 63-bit number of a named stream; streams of different names never share draws."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch shifts signed integers arithmetically)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """Scramble int64 words of any shape; a bijection of the 64-bit integers."""
    # In place, on what the shifts have made: more than twice as fast where there are many words.
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_MULTIPLIER_1)
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_MULTIPLIER_2)
    return _shift_right(x, 31).bitwise_xor_(x)


def absorb(keys: Tensor, counter: Tensor | int) -> Tensor:
    """Mix a counter into keys; shapes broadcast."""
    counter = torch.as_tensor(counter, dtype=torch.int64, device=keys.device)
    return mix(keys + (counter + 1) * _GOLDEN)


def world_keys(seed: int, stream: str, worlds: Tensor, episodes: Tensor) -> Tensor:
    """Keys [B] of a stream for worlds [B] in their episodes [B] (int64)."""
    root = torch.tensor(seed, dtype=torch.int64, device=worlds.device)
    return absorb(absorb(absorb(root, stream_number(stream)), worlds), episodes)


def words(keys: Tensor, *shape: int, first: int = 0) -> Tensor:
    """64-bit words [*keys.shape, *shape]: each entry hashes its key and its index along every axis of `shape`.

    `first` is added to the index along the first new axis, so that a slice of a long sequence (the steps of an
    episode, say) can be drawn alone.
    """
    for axis, count in enumerate(shape):
        index = torch.arange(count, dtype=torch.int64, device=keys.device)
        keys = absorb(keys.unsqueeze(-1), index + first if axis == 0 else index)
    return keys


def keys_of(uniforms: Tensor) -> Tensor:
    """Keys [...] made of the bits of given draws [..., A]: whoever knows the draws can draw more, and the same ones."""
    bits = uniforms.to(torch.float32).contiguous().view(torch.int32).to(torch.int64)
    return mix(absorb(bits, torch.arange(bits.shape[-1], device=bits.device)).sum(-1))


def to_uniform(bits: Tensor) -> Tensor:
    """Words to float32 in the open interval (0, 1), symmetric about 1/2."""
    high = _shift_right(bits, 64 - _UNIFORM_BITS).to(torch.float32)
    return high.add_(0.5).mul_(2.0**-_UNIFORM_BITS)


def uniform(keys: Tensor, *shape: int, first: int = 0) -> Tensor:
    """Uniform draws [*keys.shape, *shape] in (0, 1); `words` says what each is keyed by."""
    return to_uniform(words(keys, *shape, first=first))


def many_uniform(keys: Tensor, count: int) -> Tensor:
    """Uniform draws [*keys.shape, count] in (0, 1), two from each word: for half the time of `uniform`, other draws."""
    halves = words(keys, (count + 1) // 2).view(torch.int32)[..., :count]
    high = (halves >> (32 - _UNIFORM_BITS)).bitwise_and_((1 << _UNIFORM_BITS) - 1)
    return high.to(torch.float32).add_(0.5).mul_(2.0**-_UNIFORM_BITS)


def gumbel(uniforms: Tensor) -> Tensor:
    """Standard Gumbel variates from uniforms in (0, 1), any shape."""
    return torch.log(uniforms).neg_().log_().neg_()


def normal(uniforms: Tensor) -> Tensor:
    """Standard normal variates from uniforms in (0, 1), any shape, by inverting the distribution function."""
    variates: Tensor = torch.special.ndtri(uniforms)
    return variates


def choice(uniforms: Tensor, options: int | Tensor) -> Tensor:
    """Uniform integers in [0, options) from uniforms in (0, 1); shapes broadcast."""
    return (uniforms * options).to(torch.int64).clamp_(max=options - 1)


def categorical(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Samples [...] of the distributions logits [..., A], one uniform each, by inverting the distribution function."""
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)
    return (uniforms.unsqueeze(-1) > cumulative[..., :-1]).sum(dim=-1)


def permutation(size: int, seed: int, stream: str, *counter: int) -> Tensor:
    """The permutation of 0 .. size - 1 that belongs to (seed, stream, counters)."""
    return torch.argsort(words(_key(seed, stream, *counter), size), stable=True)


def integers(count: int, below: int, seed: int, stream: str, *counter: int) -> Tensor:
    """Uniform integers [count] in [0, below), with repetition, that belong to (seed, stream, counters)."""
    return words(_key(seed, stream, *counter), count).remainder(below)


def _key(seed: int, stream: str, *counter: int) -> Tensor:
    key = absorb(torch.tensor(seed, dtype=torch.int64), stream_number(stream))
    for value in counter:
        key = absorb(key, value)
    return key
