"""The first layer of a policy whose world observes indices: a sum of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlcomm.envs.base import Indexed


class IndexedLinear(nn.Linear):
    """What `nn.Linear` computes of the long vector that an observation stands for, without making that vector.

    Shapes: inputs [..., K + C] (K indices of ones, C numbers, identity among them) -> [..., size]. Weight, bias and
    their first values are those of the layer on [long vector, identity], so the same weights serve both.
    """

    _columns: Tensor

    def __init__(self, indexed: Indexed, identity: int, size: int) -> None:
        super().__init__(indexed.width + identity, size)
        self.ones = indexed.ones
        columns = [*indexed.columns, *range(indexed.width, indexed.width + identity)]
        self.register_buffer("_columns", torch.tensor(columns, dtype=torch.int64), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        indices, numbers = inputs[..., : self.ones].long(), inputs[..., self.ones :]
        # One copy, so that an embedding lies in one piece: much faster than gathering columns.
        embeddings = self.weight.t().contiguous()
        summed = nn.functional.embedding_bag(indices.flatten(0, -2), embeddings, mode="sum")
        of_numbers = nn.functional.linear(numbers, self.weight[:, self._columns], self.bias)
        return summed.view(*inputs.shape[:-1], -1) + of_numbers
