"""An LSTM for agents that come and go: only living ones are computed."""

from __future__ import annotations

from torch import Tensor, nn

Memory = dict[str, Tensor]

# With fewer rows a matrix product may be rounded in another order, so few living agents are computed among the dead.
_FEWEST_ROWS = 64


class AgentLSTM(nn.Module):
    """One LSTM step of every living agent; the memory of an empty slot is zero."""

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
        rows = [inputs.flatten(0, 1), memory["hidden"].flatten(0, 1), memory["cell"].flatten(0, 1)]
        living = alive.flatten().nonzero().squeeze(1)
        everybody = len(living) < _FEWEST_ROWS or len(living) == alive.numel()
        if not everybody:
            rows = [row.index_select(0, living) for row in rows]
        new = self.cell(rows[0], (rows[1], rows[2]))
        if not everybody:
            empty = inputs.new_zeros((alive.numel(), self.hidden_size))
            new = [empty.index_copy(0, living, part) for part in new]
        return {name: part.view(*alive.shape, -1) for name, part in zip(("hidden", "cell"), new, strict=True)}
