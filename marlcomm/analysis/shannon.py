"""Gaussian sources, and the fewest bits that any code can describe them with (Cover and Thomas 2006, chapter 10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
DECIBELS = 10 / math.log(10)  # of a factor e


def water_level(variances: Floats, bits: float) -> float:
    """The level of reverse water-filling over independent Gaussians of variances [D] that together get so many bits.

    Components above the level theta get 1/2 log2(variance / theta) bits each, and keep the error theta; those below get
    none and keep their variance.
    """
    ordered = np.sort(variances)[::-1]
    below = np.append(ordered[1:], 0.0)  # the next component, which must not be above the water
    active = np.arange(1, len(ordered) + 1)
    levels = np.exp2((np.cumsum(np.log2(ordered)) - 2 * bits) / active)
    return float(levels[np.argmax(levels >= below)])


@dataclass(frozen=True)
class Source:
    """Zero-mean Gaussian vectors, one a message, all independent.

    Attributes:
        name: of the source.
        covariance: [D, D].
    """

    name: str
    covariance: Floats

    @property
    def size(self) -> int:
        return len(self.covariance)

    @cached_property
    def variances(self) -> Floats:
        """Of the components that tell nothing about each other, [D]: the eigenvalues of the covariance."""
        return np.asarray(np.linalg.eigvalsh(self.covariance), np.float64)

    @cached_property
    def _root(self) -> Tensor:
        return torch.from_numpy(np.linalg.cholesky(self.covariance)).float()

    def sample(self, messages: int, generator: torch.Generator) -> Tensor:
        """Fresh vectors [M, D]."""
        return torch.randn(messages, self.size, generator=generator) @ self._root.T

    def least_mse(self, bits: float) -> float:
        """The least mean squared error per element of any code of that rate, in bits per message."""
        return float(np.minimum(self.variances, water_level(self.variances, bits)).mean())

    def slope(self, bits: float) -> float:
        """By how much the least error falls with a further bit: 2 ln 2 theta / D."""
        return 2 * math.log(2) * water_level(self.variances, bits) / self.size

    def bound(self, most_bits: float) -> tuple[Floats, Floats]:
        """Points of Shannon's bound: bits per message, and the least error per element."""
        bits = np.linspace(0, most_bits, 200)
        return bits, np.array([self.least_mse(rate) for rate in bits])


def white(size: int = 16) -> Source:
    """Independent standard Gaussians."""
    return Source("white", np.eye(size))


def autoregressive(size: int = 16, correlation: float = 0.9) -> Source:
    """A stretch of an AR(1) process of variance 1: elements k apart have covariance correlation^k."""
    places = np.arange(size)
    return Source("correlated", correlation ** np.abs(places[:, None] - places))


SOURCES = {source.name: source for source in (white(), autoregressive())}


@dataclass(frozen=True)
class Gap:
    """How far above the Shannon bound a code is at its own rate; negative where it claims to be below.

    Attributes:
        decibels: of its error over the least possible one.
        error: standard error over the messages that it was measured on, of rate and distortion together.
    """

    decibels: float
    error: float

    @property
    def impossible(self) -> bool:
        """Whether the code lies below the bound beyond Monte-Carlo error: then somebody counted too few bits."""
        return self.decibels < -4 * self.error


def gap(source: Source, bits: Floats, squared_errors: Floats) -> Gap:
    """The gap of a code that spent bits [M] on messages and left squared errors per element [M]."""
    rate, mse = float(bits.mean()), float(squared_errors.mean())
    least = source.least_mse(rate)
    # To first order, what each message adds to the gap.
    parts = squared_errors / mse + bits * (source.slope(rate) / least)
    return Gap(DECIBELS * math.log(mse / least), DECIBELS * float(parts.std()) / math.sqrt(len(parts)))
