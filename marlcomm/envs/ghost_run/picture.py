"""Pictures of GhostRun: drones with searchlights over gardens at night, and ghosts that had better stay in the dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marlcomm.envs.ghost_run.cells import TREE, WALL
from marlcomm.envs.ghost_run.settings import GhostRunSettings

_WIDTH = 600  # pixels of the picture
_OVERSAMPLE = 3  # drawn larger and scaled down, so that edges are smooth
_BAR = 44  # pixels of the strip at the bottom
_GAP, _LABEL = 10, 22  # pixels around fields, and of the line above each where there are several
_TRAIL = 6  # steps for which a way can be seen

_NIGHT, _LIT = ((30, 40, 58), (33, 44, 63)), ((96, 104, 84), (102, 110, 88))
_HEDGE, _STRIP, _INK, _FAINT, _GLOW = (16, 22, 33), (12, 16, 24), (238, 238, 232), (150, 158, 170), (255, 226, 130)
_STONE, _MORTAR, _LEAVES, _SHADE, _TRUNK = (132, 134, 142), (84, 86, 94), (64, 122, 74), (42, 88, 56), (92, 66, 44)
_GHOST, _HIDDEN, _SEEN, _EYE = (250, 252, 255), (176, 190, 220, 110), (255, 92, 84), (28, 30, 48)
_BODY, _ARM = (40, 44, 54), (60, 66, 78)
# Colours that stay apart under common colour blindness (Okabe and Ito), then more for large teams.
_PAINTS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (245, 245, 245), (170, 110, 40), (150, 220, 190),
)  # fmt: skip

Place = tuple[int, int]
Colour = tuple[int, ...]


@dataclass(frozen=True)
class Shot:
    """What is in a picture of F fields, by rows and columns.

    Attributes:
        grounds: [F, S, S] what stands on each cell.
        ghosts: of each field.
        ways: of each drone of each field, where it was at each step till now.
        lit: [F, S, S] bool, what drones see.
        time: steps till now.
    """

    grounds: np.ndarray
    ghosts: list[list[Place]]
    ways: list[list[list[Place]]]
    lit: np.ndarray
    time: int


def draw(settings: GhostRunSettings, shot: Shot) -> np.ndarray:
    """A picture [height, width, 3] uint8 of one world."""
    canvas = _Canvas(len(shot.ghosts), settings.preset.size)
    frightened, slot = 0, 0
    for field, (ghosts, ways) in enumerate(zip(shot.ghosts, shot.ways, strict=True)):
        canvas.enter(field)
        if len(shot.ghosts) > 1:
            pilot = (field - settings.shows_next) % len(shot.ghosts)
            canvas.label(f"field {field}, seen by pilot {pilot}", _paint(field))
        lit = shot.lit[field]
        canvas.garden(shot.grounds[field], lit)
        for place in sorted(set(ghosts)):
            frightened += bool(lit[place])
            canvas.ghost(place, seen=bool(lit[place]))
        for way in ways:
            canvas.way(way[-_TRAIL:], _paint(slot))
            canvas.beam(way[-1], settings.preset.view, _paint(slot))
            canvas.drone(way[-1], _paint(slot), str(slot))
            slot += 1
    words = f"{frightened} ghost{'s' * (frightened != 1)} in view" if frightened else "not a ghost in view!"
    return canvas.finish(f"step {shot.time} / {settings.preset.horizon}", words)


def _paint(slot: int) -> tuple[int, int, int]:
    return _PAINTS[slot % len(_PAINTS)]


class _Canvas:
    """Pixels, and where the cells of the field that is being drawn lie on them."""

    def __init__(self, fields: int, size: int) -> None:
        self.size, self.columns = size, math.ceil(math.sqrt(fields))
        self.above = _LABEL * _OVERSAMPLE if fields > 1 else 0
        gap, width = _GAP * _OVERSAMPLE, _WIDTH * _OVERSAMPLE
        self.cell = (width - gap * (self.columns + 1)) / self.columns / size
        self.pitch = self.cell * size + gap
        rows = math.ceil(fields / self.columns)
        self.height = round((self.pitch + self.above) * rows + gap)
        self.image = Image.new("RGB", (width, self.height + _BAR * _OVERSAMPLE), _HEDGE)
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        self.enter(0)

    def enter(self, field: int) -> None:
        """Draw in this field from now on."""
        row, column = divmod(field, self.columns)
        self.left = _GAP * _OVERSAMPLE + column * self.pitch
        self.top = _GAP * _OVERSAMPLE + self.above + row * (self.pitch + self.above)

    def _at(self, place: Place, right: float = 0.0, down: float = 0.0) -> tuple[float, float]:
        """A point by its distance from a cell's middle, in cells."""
        return self.left + (place[1] + 0.5 + right) * self.cell, self.top + (place[0] + 0.5 + down) * self.cell

    def _box(self, place: Place, half: float, right: float = 0.0, down: float = 0.0) -> list[tuple[float, float]]:
        return [self._at(place, right - half, down - half), self._at(place, right + half, down + half)]

    def _thin(self, cells: float) -> int:
        return max(round(cells * self.cell), 1)

    def label(self, words: str, colour: Colour) -> None:
        font = ImageFont.load_default(size=min(13 * _OVERSAMPLE, 0.072 * self.cell * self.size))
        self.pen.text((self.left, self.top - 5 * _OVERSAMPLE), words, fill=colour, font=font, anchor="lb")

    def garden(self, ground: np.ndarray, lit: np.ndarray) -> None:
        for row, column in np.ndindex(*ground.shape):
            shades = _LIT if lit[row, column] else _NIGHT
            self.pen.rectangle(self._box((row, column), 0.5), fill=shades[(row + column) % 2])
        for row, column in zip(*np.nonzero(ground == WALL), strict=True):
            self._wall((row, column))
        for row, column in zip(*np.nonzero(ground == TREE), strict=True):
            self._tree((row, column))

    def _wall(self, place: Place) -> None:
        self.pen.rectangle(self._box(place, 0.46), fill=_STONE, outline=_MORTAR, width=self._thin(0.06))
        self.pen.line([self._at(place, -0.46, 0.0), self._at(place, 0.46, 0.0)], fill=_MORTAR, width=self._thin(0.07))
        for right, down in ((0.0, -0.46), (-0.22, 0.0), (0.22, 0.0)):
            ends = [self._at(place, right, down), self._at(place, right, down + 0.46)]
            self.pen.line(ends, fill=_MORTAR, width=self._thin(0.07))

    def _tree(self, place: Place) -> None:
        self.pen.line([self._at(place, 0.0, 0.1), self._at(place, 0.0, 0.48)], fill=_TRUNK, width=self._thin(0.16))
        for right, down, half in ((-0.18, 0.08, 0.27), (0.18, 0.08, 0.27), (0.0, -0.16, 0.3)):
            self.pen.ellipse(self._box(place, half, right, down), fill=_SHADE)
            self.pen.ellipse(self._box(place, 0.7 * half, right - 0.04, down - 0.06), fill=_LEAVES)

    def ghost(self, place: Place, seen: bool) -> None:
        """A sheet with a wavy hem and two eyes; who is seen turns white, with a red glow and an open mouth."""
        if seen:
            for ring in range(4):
                self.pen.ellipse(self._box(place, 0.85 - 0.12 * ring), fill=(*_SEEN, 70))
        half = 0.46 if seen else 0.4
        sheet = [self._at(place, half * math.cos(a), half * math.sin(a) - 0.06) for a in _angles(math.pi, math.tau)]
        hem = [(half * (1 - wave / 3), half * (0.95 if wave % 2 else 0.7)) for wave in range(7)]
        sheet += [self._at(place, right, down) for right, down in hem]
        fill = _GHOST if seen else _HIDDEN
        self.pen.polygon(sheet, fill=fill)
        for side in (-1, 1):
            self.pen.ellipse(self._box(place, 0.09 if seen else 0.07, 0.16 * side, -0.1), fill=_EYE)
        if seen:
            self.pen.ellipse(self._box(place, 0.08, 0.0, 0.13), fill=_EYE)

    def way(self, places: Sequence[Place], colour: Colour) -> None:
        """Where a drone came from, the longer ago the fainter."""
        for age, (start, end) in enumerate(zip(places[-2::-1], places[:0:-1], strict=True)):
            fill = (*colour, 170 - 140 * age // _TRAIL)
            self.pen.line([self._at(start), self._at(end)], fill=fill, width=self._thin(0.16))

    def beam(self, place: Place, view: int, colour: Colour) -> None:
        """The rim of what a drone sees, as far as it is in the field."""
        radius = view - 0.4
        rim = [self._at(place, radius * math.sin(a), radius * math.cos(a)) for a in _angles(0.0, math.tau, 90)]
        right, bottom = self.left + self.size * self.cell, self.top + self.size * self.cell
        inside = [(min(max(x, self.left), right), min(max(y, self.top), bottom)) for x, y in rim]
        self.pen.line(inside, fill=(*colour, 150), width=self._thin(0.09))

    def drone(self, place: Place, colour: Colour, name: str) -> None:
        """Four rotors, arms, and a body with the slot's number."""
        scale = max(1.0, 9.0 * _OVERSAMPLE / self.cell)  # as large as can be read
        for right, down in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            tip = (0.62 * scale * right, 0.62 * scale * down)
            self.pen.line([self._at(place), self._at(place, *tip)], fill=_ARM, width=self._thin(0.16 * scale))
            self.pen.ellipse(self._box(place, 0.4 * scale, *tip), fill=(*colour, 120), outline=colour)
            self.pen.ellipse(self._box(place, 0.1 * scale, *tip), fill=_BODY)
        body = self._box(place, 0.5 * scale)
        self.pen.ellipse(body, fill=_BODY, outline=colour, width=self._thin(0.12 * scale))
        font = ImageFont.load_default(size=0.7 * scale * self.cell)
        self.pen.text(self._at(place), name, fill=_INK, font=font, anchor="mm")

    def finish(self, left: str, right: str) -> np.ndarray:
        width, bottom = _WIDTH * _OVERSAMPLE, self.height + _BAR * _OVERSAMPLE
        self.pen.rectangle([0, self.height, width, bottom], fill=_STRIP)
        font, middle = ImageFont.load_default(size=20 * _OVERSAMPLE), self.height + _BAR * _OVERSAMPLE / 2
        self.pen.text((16 * _OVERSAMPLE, middle), left, fill=_INK, font=font, anchor="lm")
        colour = _GLOW if right.endswith("!") else _FAINT
        self.pen.text((width - 16 * _OVERSAMPLE, middle), right, fill=colour, font=font, anchor="rm")
        small = self.image.resize((_WIDTH, round(bottom / _OVERSAMPLE)), Image.Resampling.LANCZOS)
        return np.asarray(small, np.uint8)


def _angles(first: float, last: float, count: int = 12) -> list[float]:
    return [first + (last - first) * index / count for index in range(count + 1)]
