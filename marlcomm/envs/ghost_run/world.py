"""GhostRun: drones over a ground where ghosts walk, and every ghost in view costs (after Liu et al. 2021, DVQ).

`mode: legacy` has the rules, rewards and numbers of the published code. `mode: crossed` makes a task of talking: every
drone hovers over a field of its own, and the screen of its pilot shows the field of the next one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from marlcomm import noise
from marlcomm.envs.base import Indexed, Script, TeamEnv, TeamSpec, TeamStep
from marlcomm.envs.cards import card
from marlcomm.envs.ghost_run.cells import FREE, GHOST, MOVES, OUTSIDE, THINGS, TREE, WALL, Cells, bits_set
from marlcomm.envs.ghost_run.settings import GhostRunSettings

WALLS = 0.01  # chance of a wall, for each cell
LEGACY_PIXEL, LEGACY_STEP, LEGACY_NOISE = -10.0, -1.0, 1e-4
_MOVES_IN_A_WORD = 32
_COLOURS = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.5, 0.5, 0.5))


class GhostRun(TeamEnv):
    """B batched worlds of F fields, with n drones and G ghosts each: one field for all (legacy) or for each drone.

    Actions: 0 row - step, 1 row + step, 2 column - step, 3 column + step, 4 stay (not in legacy). Who would leave the
    field stays; in crossed, who would see beyond it. Then ghosts go one step in a direction drawn for each, if they
    land on a free cell. A cell with a ghost that a drone of the field sees is a red pixel. Each costs every drone of
    its field 1; in legacy 10, and 1 a step, and noise of 1e-4. The horizon truncates. Success: no red pixel at the end.

    A drone sees the cells at most `view` away, of the square of 2 view - 1 by 2 view - 1 around it. A pilot observes a
    picture and its own drone's row and column. The picture is that of the square (legacy), or shows the whole field of
    the next drone without the drone: what others do changes nothing that a pilot sees. As indices: for each cell
    (legacy: of the disc) what is there, of nothing, wall, tree, ghost, outside; then row and column. Dense: red, green,
    blue of each cell, then one-hot row and column.
    """

    def __init__(self, settings: GhostRunSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.settings, self.preset = settings, settings.preset
        self.cells = Cells(self.preset, inside=not settings.legacy, device=self.device)
        self._per_field = self.preset.drones // settings.fields
        dense, size = settings.observations == "dense", self.preset.size
        shown = (self.cells.picture if dense else self.cells.disc) if settings.legacy else self.cells.field
        self._shown = shown  # cells of a picture; in legacy from where the drone is
        self.indexed = Indexed(len(shown) * THINGS + 2 * size, len(shown) + 2, ())
        self._colours = torch.tensor(_COLOURS, device=self.device)
        self.spec = TeamSpec(
            name="ghost_run",
            num_agents=self.preset.drones,
            observation_size=3 * len(shown) + 2 * size if dense else self.indexed.ones,
            num_actions=len(MOVES) - settings.legacy,
            horizon=self.preset.horizon,
            setting=settings.setting,
            observation_bounds=(0, 1 if dense else self.indexed.width),
            indexed=None if dense else self.indexed,
            floor="own_view" if settings.solved_alone else "corner",
            ceiling="oracle",
            card=card("ghost_run", settings.setting),
        )

    def _begin(self, episodes: Tensor) -> TeamStep:
        keys = noise.absorb(self.keys, noise.stream_number("fields"))
        self._keys = noise.words(keys, self.settings.fields).flatten()  # [M], M = B * F, a key for each field
        self._ground = self._grounds()
        self._ghosts = self._anywhere("ghosts", self._ground == FREE, self.preset.ghosts)
        self._drones = self._anywhere("drones", self.cells.hover.expand(len(self._keys), -1), self._per_field)
        self._numbers = torch.arange(self.preset.ghosts, dtype=torch.int16, device=self.device).expand_as(self._ghosts)
        self._board = torch.empty(self._ground.shape, dtype=torch.int16, device=self.device)
        self._covered = torch.zeros((len(self._keys), self.preset.size), dtype=torch.int64, device=self.device)
        self._met = torch.zeros_like(self._ghosts, dtype=torch.bool)
        self._pixels = torch.zeros(self.num_worlds, device=self.device)
        self._trail = [self._drones]
        red = self._look()
        return self._now(red, torch.zeros((self.num_worlds, self.preset.drones), device=self.device))

    def _grounds(self) -> Tensor:
        """[M, C] uint8, walls and trees of all fields."""
        if self.settings.on_map == "train":
            key = noise.absorb(torch.zeros((), dtype=torch.int64), noise.stream_number("ghost_run/train map"))
            key = noise.absorb(key, self.settings.layout).to(self.device)
            return self._grown(noise.words(key, self.settings.fields)).repeat(self.num_worlds, 1)
        return self._grown(noise.absorb(self._keys, noise.stream_number("map")))

    def _grown(self, keys: Tensor) -> Tensor:
        """[K, C] uint8 from keys [K]: a wall in each cell by chance, then trees on others, all alike."""
        words = noise.words(keys, len(self.cells.field))
        walls = noise.to_uniform(words) < WALLS
        kinds = torch.where(walls, WALL, FREE).to(torch.uint8)
        order = words.masked_fill_(walls, torch.iinfo(torch.int64).min)
        kinds.scatter_(1, order.topk(self.preset.trees, dim=1).indices, TREE)
        return self.cells.blank.repeat(len(keys), 1).index_copy_(1, self.cells.field, kinds)

    def _anywhere(self, stream: str, allowed: Tensor, count: int) -> Tensor:
        """[M, count] cells, each drawn from those that are allowed [M, C]."""
        keys = noise.absorb(self._keys, noise.stream_number(stream))
        among = allowed.cumsum(1, dtype=torch.int32)
        rank = (noise.uniform(keys, count) * among[:, -1:]).to(torch.int32)
        return torch.searchsorted(among, rank.clamp_(max=among[:, -1:] - 1), right=True)

    def _advance(self, actions: Tensor) -> TeamStep:
        moved = self._drones + self.cells.moves[:, 0].take(actions.view(self._drones.shape))
        self._drones = torch.where(self.cells.hover.take(moved), moved, self._drones)
        self._walk()
        self._trail.append(self._drones)
        red = self._look()
        return self._now(red, self._rewards(red))

    def _walk(self) -> None:
        """Ghosts go one step; a word of 64 bits holds 32 directions."""
        block, place = divmod(self.time - 1, _MOVES_IN_A_WORD)
        if place == 0:
            keys = noise.absorb(self._keys, noise.stream_number("walk"))
            self._directions = noise.words(keys, 1, self.preset.ghosts, first=block)[:, 0]
        moves = self.cells.moves[:, 1].take((self._directions >> 2 * place) & 3)
        landed = self._ghosts + moves
        self._ghosts = torch.where(self._ground.gather(1, landed) == FREE, landed, self._ghosts)

    def _look(self) -> Tensor:
        """[M] float32, how many red pixels are in view; and remember what was seen."""
        in_view = self.cells.sees(self._drones, self._ghosts).any(1)
        # Of those who share a cell, one leaves its number there: which one does not matter.
        self._board.scatter_(1, self._ghosts, self._numbers)
        counted = self._board.gather(1, self._ghosts) == self._numbers
        rows = self.cells.rows_in_view.index_select(0, self._drones.flatten()).view(*self._drones.shape, -1)
        self._covered = functools.reduce(torch.bitwise_or, rows.unbind(1), self._covered)
        self._met = self._met | in_view
        return (in_view & counted).sum(1, dtype=torch.float32)

    def _rewards(self, red: Tensor) -> Tensor:
        """[B, N] from red pixels [M]."""
        self._pixels = self._pixels + red.view(self.num_worlds, -1).sum(1)
        if not self.settings.legacy:
            return -red.view(self.num_worlds, -1)
        keys = noise.absorb(self.keys, noise.stream_number("reward"))
        jitter = noise.normal(noise.uniform(keys, 1, first=self.time)[:, 0])
        rewards = LEGACY_PIXEL * red + LEGACY_STEP + LEGACY_NOISE * jitter
        return rewards.unsqueeze(1).repeat(1, self.preset.drones)

    def _now(self, red: Tensor, rewards: Tensor) -> TeamStep:
        everybody = torch.ones(rewards.shape, dtype=torch.bool, device=self.device)
        of_worlds = red.view(self.num_worlds, -1)
        return TeamStep(
            observations=self._seen(),
            rewards=rewards,
            alive=everybody,
            spawned=~everybody,
            terminated=torch.zeros(self.num_worlds, dtype=torch.bool, device=self.device),
            truncated=self._at_horizon(),
            info={
                "success": (of_worlds == 0).all(1).to(torch.float32),
                "red_pixels": self._pixels,
                "ghosts_met": self._met.view(self.num_worlds, -1).to(torch.float32).mean(1),
                "coverage": bits_set(self._covered).view(self.num_worlds, -1).sum(1) / self._cells_in_all,
            },
        )

    @property
    def _cells_in_all(self) -> float:
        return float(self.settings.fields * self.preset.size**2)

    def _seen(self) -> Tensor:
        """Observations [B, N, O]."""
        kinds = self._pictures().view(self.num_worlds, self.preset.drones, -1)
        if self.settings.shows_next:
            kinds = kinds.roll(-1, dims=1)
        drones = self._drones.view(self.num_worlds, -1)
        row, column = self.cells.row(drones), self.cells.column(drones)
        return self._indices(kinds, row, column) if self.spec.indexed is not None else self._dense(kinds, row, column)

    def _pictures(self) -> Tensor:
        """[M, n * K] uint8, what is in the cells of each drone's picture: what it sees (legacy), or the whole field."""
        scene = self._ground.scatter(1, self._ghosts, GHOST)
        if not self.settings.legacy:
            return scene.index_select(1, self._shown)
        return scene.gather(1, (self._drones.unsqueeze(2) + self._shown).flatten(1))

    def _indices(self, kinds: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """The positions of the ones: kinds [B, N, K] of the cells shown, row, column [B, N].

        A free cell has none. Hundreds of ones that stand there nearly always would move as one in every update.
        """
        cells = kinds.shape[-1]
        seen = torch.empty((*kinds.shape[:2], cells + 2), device=self.device)
        torch.add(kinds, self._before_cell, out=seen[..., :cells])
        seen[..., :cells].masked_fill_(kinds == FREE, self.indexed.width)
        seen[..., cells] = row + cells * THINGS
        seen[..., cells + 1] = column + (cells * THINGS + self.preset.size)
        return seen

    def _dense(self, kinds: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Colours of the picture, and one-hot rows and columns."""
        size = self.preset.size
        if self.settings.legacy:
            kinds = kinds.masked_fill(~self.cells.in_disc, OUTSIDE)
        colours = self._colours.index_select(0, kinds.flatten().int())
        places = torch.stack([row, column + size], dim=-1)
        seen = torch.zeros((*row.shape, self.spec.observation_size), device=self.device)
        seen[..., : -2 * size] = colours.view(*row.shape, -1)
        return seen.scatter_(-1, places + (self.spec.observation_size - 2 * size), 1.0)

    @functools.cached_property
    def _before_cell(self) -> Tensor:
        """[K], what to add to the kind of a thing in a cell to get its position."""
        return THINGS * torch.arange(len(self._shown), device=self.device, dtype=torch.float32) - 1

    @property
    def drones(self) -> Tensor:
        """[M, n] cells of the drones of each field; fields of a world, and drones by slots, follow each other."""
        return self._drones

    @property
    def trail(self) -> list[Tensor]:
        """Cells of the drones [M, n] at every step so far."""
        return self._trail

    @property
    def ghosts(self) -> Tensor:
        """[M, G] cells of the ghosts of each field."""
        return self._ghosts

    @property
    def ground(self) -> Tensor:
        """[M, C] uint8, what stands on each cell."""
        return self._ground

    def in_view(self) -> Tensor:
        """[M, n, S, S] bool, which cells of the field each drone sees."""
        rows = self.cells.rows_in_view[self._drones]
        return ((rows.unsqueeze(-1) >> torch.arange(self.preset.size, device=self.device)) & 1).bool()

    def scripts(self) -> Mapping[str, Script]:
        from marlcomm.envs.ghost_run.scripts import SCRIPTS

        return SCRIPTS

    def render(self, world: int = 0) -> np.ndarray:
        from marlcomm.envs.ghost_run.picture import Shot, draw

        count, size, cells = self.settings.fields, self.preset.size, self.cells
        fields = slice(world * count, (world + 1) * count)

        def places(numbers: Tensor) -> list[tuple[int, int]]:
            return list(zip(cells.row(numbers).tolist(), cells.column(numbers).tolist(), strict=True))

        ways = torch.stack(self._trail)[:, fields].permute(1, 2, 0)
        shot = Shot(
            grounds=self._ground[fields][:, cells.field].view(count, size, size).cpu().numpy(),
            ghosts=[places(ghosts) for ghosts in self._ghosts[fields]],
            ways=[[places(way) for way in of_field] for of_field in ways],
            lit=self.in_view()[fields].any(1).cpu().numpy(),
            time=self.time,
        )
        return draw(self.settings, shot)
