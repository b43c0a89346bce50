"""The cells of a field: numbered with a margin around them, so that whoever looks or goes over the edge finds it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from marlcomm.envs.ghost_run.settings import Preset

FREE, WALL, TREE, GHOST, OUTSIDE = range(5)
THINGS = 4  # all but FREE
# Row and column of a move: up, down, left, right, stay.
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0))


class Cells:
    """Numbers of cells, what lies around each, and where drones may be. C counts cells, margin included.

    Attributes:
        count: C; cell (row, column) of the field is number (row + margin) * stride + column + margin.
        field: [S * S] numbers of the cells of the field, row by row.
        blank: [C] uint8, a field without anything: FREE inside, OUTSIDE in the margin.
        hover: [C] bool, where drones may be.
        picture: [(2 view - 1)^2] what to add to a drone's cell to get those of the square around it, row by row.
        in_disc: [(2 view - 1)^2] bool, which of them it sees; the others are grey.
        disc: [K] what to add to get those that it sees.
        moves: [5, 2] what a move adds: a drone's, a ghost's.
    """

    def __init__(self, preset: Preset, inside: bool, device: torch.device) -> None:
        self.preset, self.device = preset, device
        size, view = preset.size, preset.view
        self.margin = max(view - 1, preset.drone_step, preset.ghost_step)
        # Twice the size at least: then the difference of two cells' numbers tells how they lie to each other.
        self.stride = max(size + 2 * self.margin, 2 * size)
        self.count = (size + 2 * self.margin) * self.stride
        along = torch.arange(size, device=device)
        self.field = self.number(along.unsqueeze(1), along).flatten()
        self.blank = torch.full((self.count,), OUTSIDE, dtype=torch.uint8, device=device)
        self.blank[self.field] = FREE
        self.edge = view - 1 if inside else 0
        held = along[self.edge : size - self.edge]
        self.hover = torch.zeros(self.count, dtype=torch.bool, device=device)
        self.hover[self.number(held.unsqueeze(1), held)] = True
        around = torch.arange(1 - view, view, device=device)
        down, right = torch.meshgrid(around, around, indexing="ij")
        self.picture = (down * self.stride + right).flatten()
        self.in_disc = (down**2 + right**2 <= view**2).flatten()
        self.disc = self.picture[self.in_disc]
        moves = torch.tensor(MOVES, device=device) @ torch.tensor([self.stride, 1], device=device)
        self.moves = moves.unsqueeze(1) * torch.tensor([preset.drone_step, preset.ghost_step], device=device)

    def number(self, row: Tensor, column: Tensor) -> Tensor:
        """Of cells of the field, by rows and columns from 0."""
        return (row + self.margin) * self.stride + column + self.margin

    def row(self, cells: Tensor) -> Tensor:
        return cells // self.stride - self.margin

    def column(self, cells: Tensor) -> Tensor:
        return cells % self.stride - self.margin

    def sees(self, drones: Tensor, ghosts: Tensor) -> Tensor:
        """[M, n, G] bool, which drones [M, n] have which ghosts [M, G] in view."""
        apart = ghosts.unsqueeze(1) - drones.unsqueeze(2)
        return self._near.take(apart.add_(len(self._near) // 2))

    @functools.cached_property
    def _near(self) -> Tensor:
        """[2 C + 1] bool, whether a cell is in view, by the difference of its number and the drone's."""
        near = torch.zeros(2 * self.count + 1, dtype=torch.bool, device=self.device)
        near[self.disc + self.count] = True
        return near

    @functools.cached_property
    def rows_in_view(self) -> Tensor:
        """[C, S] int64, what a drone on a cell sees of each row of the field, a bit for each column."""
        there = self.field.unsqueeze(1) + self.disc
        inside = self.blank[there] == FREE
        bits = torch.where(inside, torch.ones_like(there) << self.column(there).clamp(min=0), 0)
        rows = torch.zeros(len(there), self.preset.size, dtype=torch.int64, device=self.device)
        rows.scatter_add_(1, torch.where(inside, self.row(there), 0), bits)
        seen = torch.zeros(self.count, self.preset.size, dtype=torch.int64, device=self.device)
        return seen.index_copy_(0, self.field, rows)


def bits_set(words: Tensor) -> Tensor:
    """How many bits of each word are set, below the highest two: [...] int64 -> [...] int64."""
    twos = words - ((words >> 1) & 0x5555555555555555)
    fours = (twos & 0x3333333333333333) + ((twos >> 2) & 0x3333333333333333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((bytes_ * 0x0101010101010101) >> 56) & 0xFF
