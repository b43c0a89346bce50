"""Memory of agents that come and go."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Memory = dict[str, Tensor]

# With fewer rows a matrix product may be rounded in another order, so few living agents are computed among the dead.
FEWEST_ROWS = 64


class AgentRNN(nn.Module):
    """One step of a plain recurrent layer, tanh(inputs + linear(hidden)), of every living agent."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, hidden_size)

    def begin(self, worlds: int, agents: int) -> Memory:
        """Fresh memory: [B, N, H] of zeros."""
        return {"hidden": self.linear.weight.new_zeros((worlds, agents, self.linear.in_features))}

    def forward(self, inputs: Tensor, memory: Memory, alive: Tensor) -> Memory:
        """Memory after inputs [B, N, H]; alive [B, N]. ``memory["hidden"]`` is the agents' state."""
        old = memory["hidden"]
        return {"hidden": torch.where(alive.unsqueeze(-1), torch.tanh(inputs + self.linear(old)), old)}


class AgentLSTM(nn.Module):
    """One LSTM step of every living agent; only they are computed, the memory of an empty slot stays as it is."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.cell = nn.LSTMCell(input_size, hidden_size)

    def begin(self, worlds: int, agents: int) -> Memory:
        """Fresh memory: two tensors [B, N, H] of zeros."""
        zeros = self.cell.weight_hh.new_zeros((worlds, agents, self.hidden_size))
        return {"hidden": zeros, "cell": zeros}

    def forward(self, inputs: Tensor, memory: Memory, alive: Tensor) -> Memory:
        """Memory after inputs [B, N, I]; alive [B, N]. ``memory["hidden"]`` is the agents' state."""
        old = memory["hidden"], memory["cell"]
        rows = [part.flatten(0, 1) for part in (inputs, *old)]
        living = alive.flatten().nonzero().squeeze(1)
        if len(living) < FEWEST_ROWS or len(living) == alive.numel():
            new = self.cell(rows[0], (rows[1], rows[2]))
            hidden, cell = (torch.where(alive.unsqueeze(-1), n.view_as(o), o) for n, o in zip(new, old, strict=True))
        else:
            lived = [row.index_select(0, living) for row in rows]
            new = self.cell(lived[0], (lived[1], lived[2]))
            hidden, cell = (
                row.index_copy(0, living, n).view_as(o) for row, n, o in zip(rows[1:], new, old, strict=True)
            )
        return {"hidden": hidden, "cell": cell}
