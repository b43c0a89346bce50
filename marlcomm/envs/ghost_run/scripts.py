"""Scripted pilots of GhostRun: fixed places, plans on what one screen shows, on what all show, on everything."""

from __future__ import annotations

import torch
from torch import Tensor

from marlcomm.envs.base import TeamEnv
from marlcomm.envs.ghost_run.cells import FREE, MOVES
from marlcomm.envs.ghost_run.world import GhostRun
from marlcomm.envs.scripts import random_actions

_FORESEEN = 4  # steps over which ghosts are expected to spread
_PLANNED = 16  # steps of a plan; those beyond the foreseen ones are judged by the last of these


def corner(env: TeamEnv) -> Tensor:
    """In silence: everybody to the first corner, along the column first."""
    world = _checked(env)
    return _towards(world, torch.zeros_like(world.drones), torch.zeros_like(world.drones))


def spread(env: TeamEnv) -> Tensor:
    """In silence: everybody to a place of its own, by its number, as far apart as the map allows."""
    world = _checked(env)
    slots = torch.arange(world.preset.drones, device=world.device)
    per_side = int((world.preset.drones - 1) ** 0.5) + 1
    place = ((2 * torch.stack([slots // per_side, slots % per_side]) + 1) * world.preset.size) // (2 * per_side)
    row, column = place.repeat(1, world.num_worlds).view(2, *world.drones.shape)
    return _towards(world, row, column)


def own_view(env: TeamEnv) -> Tensor:
    """In silence: everybody plans with what its screen shows, as if that were its own field."""
    world = _checked(env)
    ghosts, free = _ghosts(world).unsqueeze(1), _free(world).unsqueeze(1)
    if world.settings.legacy:
        return _plan(world, ghosts, free, world.in_view(), _meeting(world, first=True))
    everywhere = torch.ones_like(free)
    return _plan(world, _shown(world, ghosts), _shown(world, free), everywhere, _meeting(world, first=True))


def all_screens(env: TeamEnv) -> Tensor:
    """Everybody knows what all screens show now, and plans with that: talk without a memory."""
    world = _checked(env)
    known = world.in_view().any(1, keepdim=True) if world.settings.legacy else None
    return _informed(world, known)


def oracle(env: TeamEnv) -> Tensor:
    """Everybody knows where all ghosts, walls and trees are, but not where ghosts will go: the ceiling."""
    return _informed(_checked(env), None)


def _informed(world: GhostRun, known: Tensor | None) -> Tensor:
    """Moves [B, N] of a team that knows what there is where it is known [M, 1, S, S]; None: everywhere."""
    ghosts, free = _ghosts(world).unsqueeze(1), _free(world).unsqueeze(1)
    known = torch.ones_like(free) if known is None else known
    return _plan(world, ghosts, free, known, _meeting(world, first=False))


def _checked(env: TeamEnv) -> GhostRun:
    assert isinstance(env, GhostRun)
    return env


def _ghosts(world: GhostRun) -> Tensor:
    """[M, S, S] float32, one where a ghost is."""
    board = torch.zeros(world.ground.shape, device=world.device).scatter_(1, world.ghosts, 1.0)
    return _on_field(world, board)


def _free(world: GhostRun) -> Tensor:
    """[M, S, S] bool, where ghosts may go."""
    return _on_field(world, world.ground == FREE)


def _on_field(world: GhostRun, board: Tensor) -> Tensor:
    """[M, S, S] of [M, C]: the cells of the field alone."""
    return board[:, world.cells.field].view(len(board), world.preset.size, world.preset.size)


def _shown(world: GhostRun, boards: Tensor) -> Tensor:
    """[M, ...] the boards of the fields that the pilots' screens show."""
    return boards.view(world.num_worlds, -1, *boards.shape[1:]).roll(-world.settings.shows_next, dims=1).flatten(0, 1)


def _towards(world: GhostRun, row: Tensor, column: Tensor) -> Tensor:
    """Moves [B, N] as near to rows and columns [M, n] as steps go, along the column first."""
    step, moves = world.preset.drone_step, world.cells.moves[:, 0]

    def nearer(away: Tensor, back: int, onward: int) -> tuple[Tensor, Tensor]:
        """A move by which one comes nearer to what is `away`, and who can make it."""
        move = torch.where(away < 0, back, onward)
        return move, (away.abs() * 2 > step) & world.cells.hover[world.drones + moves[move]]

    along_column, up_or_down = nearer(row - world.cells.row(world.drones), 0, 1)
    along_row, left_or_right = nearer(column - world.cells.column(world.drones), 2, 3)
    there = 0 if world.settings.legacy else 4  # who is in the first corner cannot go up
    across = torch.where(left_or_right, along_row, there)
    return torch.where(up_or_down, along_column, across).view(world.num_worlds, -1)


def _plan(world: GhostRun, ghosts: Tensor, free: Tensor, known: Tensor, weights: Tensor) -> Tensor:
    """Moves [B, N] of who expects these ghosts where it knows, and as many as elsewhere on average where it does not.

    Ghosts and free are [M, 1, S, S], known is [M, k, S, S], one for all drones of a field (k = 1) or for each; weights
    [M, S, S] say how much what a drone sees counts, by where it is.
    """
    unknown = world.preset.ghosts / world.preset.size**2
    expected = torch.where(known, ghosts, unknown).flatten(0, 1)
    free, weights = (free | ~known).flatten(0, 1), weights.repeat_interleave(known.shape[1], dim=0)
    costs = []
    for _ in range(min(_FORESEEN, world.spec.horizon - world.time)):
        expected = _walked(expected, free, world.preset.ghost_step)
        costs.append(_in_view(world, expected) * weights)
    best = torch.zeros_like(costs[0])
    for step in reversed(range(min(_PLANNED, world.spec.horizon - world.time))):
        ahead = costs[min(step, len(costs) - 1)] + best
        onward = torch.stack([_after(world, ahead, move) for move in range(world.spec.num_actions)])
        best = onward.amin(0)
    onward = onward.flatten(2).view(world.spec.num_actions, *known.shape[:2], -1)
    onward = onward.expand(-1, -1, world.drones.shape[1], -1)
    place = world.cells.row(world.drones) * world.preset.size + world.cells.column(world.drones)
    worth = onward.gather(3, place.expand(world.spec.num_actions, -1, -1).unsqueeze(3))
    return worth.squeeze(3).argmin(0).view(world.num_worlds, -1)


def _meeting(world: GhostRun, first: bool) -> Tensor:
    """[M, S, S] weights where drones share a map and all meet in one corner: what several see there counts once.

    It is the first corner, or the one that was nearest to all at the start.
    """
    size, step, start = world.preset.size, world.preset.drone_step, world.trail[0]
    lines = torch.stack([world.cells.row(start), world.cells.column(start)])
    nearer_end = (2 * lines - (size - 1)).sum(2) > 0
    at_end = torch.zeros_like(nearer_end) if first else nearer_end
    along = torch.arange(size, device=world.device)
    row, column = torch.where(at_end.unsqueeze(2), along >= size - step, along < step)
    there = row.unsqueeze(2) & column.unsqueeze(1)
    return torch.where(there, 1 / start.shape[1], 1.0)


def _walked(expected: Tensor, free: Tensor, step: int) -> Tensor:
    """Expected ghosts [P, S, S] one step later, where cells are free or not [P, S, S]."""
    later = torch.zeros_like(expected)
    for down, right in MOVES[:4]:
        lands = _shifted(free, -step * down, -step * right)
        later += _shifted(expected * lands, step * down, step * right) + expected * ~lands
    return later / 4


def _shifted(board: Tensor, down: int, right: int) -> Tensor:
    """[P, S, S] moved down and right; what comes in from beyond the edge is zero."""
    size = board.shape[-1]
    padded = torch.nn.functional.pad(board, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    first_row, first_column = max(-down, 0), max(-right, 0)
    return padded[:, first_row : first_row + size, first_column : first_column + size]


def _in_view(world: GhostRun, expected: Tensor) -> Tensor:
    """[P, S, S] how many of the expected ghosts [P, S, S] a drone on each cell would see."""
    size, view = world.preset.size, world.preset.view
    widths = world.cells.in_disc.view(world.preset.window, -1).sum(1).tolist()
    sums = torch.nn.functional.pad(expected.cumsum(2), (view, 0, view - 1, view - 1))
    sums = torch.cat([sums, sums[..., -1:].expand(-1, -1, view)], dim=2)
    seen = torch.zeros_like(expected)
    for row, width in enumerate(widths):
        half = width // 2
        rows = sums[:, row : row + size]
        seen += rows[..., view + half : view + half + size] - rows[..., view - half - 1 : view - half - 1 + size]
    return seen


def _after(world: GhostRun, worth: Tensor, move: int) -> Tensor:
    """[P, S, S] of what it is worth [P, S, S] to be on a cell: of making a move on each cell where drones may be."""
    down, right = (world.preset.drone_step * along for along in MOVES[move])
    field = world.cells.field
    can = world.cells.hover[field + world.cells.moves[move, 0]].view(worth.shape[1:])
    return torch.where(can, _shifted(worth, -down, -right), worth)


SCRIPTS = {
    "random": random_actions,
    "corner": corner,
    "spread": spread,
    "own_view": own_view,
    "all_screens": all_screens,
    "oracle": oracle,
}
