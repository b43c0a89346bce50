"""The first layer of a policy whose world observes indices: a sum of embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from marlcomm.envs.base import Indexed, TeamSpec

# Where fewer than one number in so many is a one, adding the gradients of each is faster (benchmarks/embeddings.py).
_FEW = 16
_AT_ONCE = 2**20  # numbers of long vectors, in the caches of a core


def first_layer(spec: TeamSpec, added: int, size: int) -> nn.Linear:
    """A linear layer on an agent's own observation and `added` numbers: [..., own_size + added] -> [..., size]."""
    if spec.indexed is None:
        return nn.Linear(spec.own_size + added, size)
    return IndexedLinear(spec.indexed, added, size)


class IndexedLinear(nn.Linear):
    """What `nn.Linear` computes of the long vector that an observation stands for, without making that vector.

    Shapes: inputs [..., K + C] (K indices of ones, C numbers, identity among them) -> [..., size]. Weight, bias and
    their first values are those of the layer on [long vector, identity], so the same weights serve both.
    """

    _columns: Tensor

    def __init__(self, indexed: Indexed, identity: int, size: int) -> None:
        super().__init__(indexed.width + identity, size)
        self.ones, self._width = indexed.ones, indexed.width
        columns = [*indexed.columns, *range(indexed.width, indexed.width + identity)]
        self.register_buffer("_columns", torch.tensor(columns, dtype=torch.int64), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        positions, numbers = inputs[..., : self.ones], inputs[..., self.ones :]
        # One copy, so that embeddings lie in one piece: much faster than gathering columns. The last, zero, is of none.
        embeddings = nn.functional.pad(self.weight[:, : self._width].t(), (0, 0, 0, 1))
        summed = sums(positions.flatten(0, -2), embeddings)
        of_numbers = nn.functional.linear(numbers, self.weight[:, self._columns], self.bias)
        return summed.view(*inputs.shape[:-1], -1) + of_numbers


def sums(positions: Tensor, embeddings: Tensor) -> Tensor:
    """[M, H], the sums of the embeddings [W + 1, H] that positions [M, K] name; the last one, zero, is of none."""
    width = len(embeddings) - 1
    named = positions < width
    few = named.sum() * _FEW < width * len(positions)
    return sums_of_few(positions, named, embeddings) if few else sums_of_many(positions.long(), embeddings)


def sums_of_few(positions: Tensor, named: Tensor, embeddings: Tensor) -> Tensor:
    """`sums`, where vectors of W numbers hold few ones: what is not `named` is neither read nor added."""
    ones = named.sum(-1)
    return nn.functional.embedding_bag(positions[named].long(), embeddings, ones.cumsum(0) - ones, mode="sum")


def sums_of_many(indices: Tensor, embeddings: Tensor) -> Tensor:
    """`sums`, where they hold many."""
    summed: Tensor = _SumsOfMany.apply(indices, embeddings)  # type: ignore[no-untyped-call]
    return summed


class _SumsOfMany(torch.autograd.Function):
    """Its gradient is a product with the long vectors, some of them at a time.

    Torch's own sorts all indices, and adds the gradient of each by itself.
    """

    @staticmethod
    def forward(ctx: Any, indices: Tensor, embeddings: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.width = len(embeddings)
        return nn.functional.embedding_bag(indices, embeddings, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (indices,), (gradient,) = ctx.saved_tensors, gradients
        found = gradient.new_zeros(ctx.width, gradient.shape[1])
        rows, one = max(_AT_ONCE // ctx.width, 1), gradient.new_ones(())
        for some, theirs in zip(indices.split(rows), gradient.split(rows), strict=True):
            vectors = gradient.new_zeros(len(some), ctx.width).scatter_add_(1, some, one.expand_as(some))
            found.addmm_(vectors.t(), theirs)
        return None, found
