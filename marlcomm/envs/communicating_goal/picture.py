"""Pictures of Communicating Goal: a meadow with flags, the walker and its footprints, and what the speaker sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marlcomm.envs.communicating_goal.settings import CommunicatingGoalSettings

_SIDE = 560  # pixels of the board
_OVERSAMPLE = 3  # drawn larger and scaled down, so that edges are smooth
_BAR = 76  # pixels of the strip at the bottom

_MEADOW = ((137, 172, 105), (129, 164, 98))
_LETTERS, _EDGE, _STRIP, _INK, _FAINT = (30, 44, 20), (104, 138, 78), (34, 38, 43), (238, 238, 232), (168, 172, 176)
_POLE, _SHADOW, _GLOW = (250, 246, 232), (20, 40, 10, 70), (255, 246, 170)
_STEEL, _DARK, _EYE, _FOOT = (222, 228, 234), (52, 60, 70), (80, 200, 255), (70, 92, 48)
_FEATHER, _BELLY, _BEAK = (150, 108, 74), (226, 202, 168), (240, 170, 40)
# Colours that stay apart under common colour blindness (Okabe and Ito), and two more.
_FLAGS = (
    (213, 94, 0), (0, 114, 178), (230, 159, 0), (86, 180, 233),
    (204, 121, 167), (240, 228, 66), (0, 158, 115), (245, 245, 245),
)  # fmt: skip

Point = tuple[float, float]


def draw(settings: CommunicatingGoalSettings, *, goal: int, path: Sequence[int], steps: int) -> np.ndarray:
    """A picture [height, width, 3] uint8 of one world.

    Args:
        settings: of the world.
        goal: the number of the goal, which only the speaker sees.
        path: the listener's cells so far, from its start.
        steps: how many of them it walked before it arrived, or till now.
    """
    board = _Board(settings.size)
    target = settings.goals[goal]
    trail = [(cell % settings.size, cell // settings.size) for cell in path[: steps + 1]]
    board.glow(target)
    board.footprints(trail)
    for number, cell in enumerate(settings.goals):
        board.flag(cell, _FLAGS[number])
        if cell != trail[-1]:
            board.label(cell, settings.chances[number])
    found = trail[-1] == target
    board.walker(trail, cheering=found)
    strip = _Strip(board)
    strip.speaker(_FLAGS[goal])
    left = abs(target[0] - trail[-1][0]) + abs(target[1] - trail[-1][1])
    strip.words(f"step {steps} / {settings.horizon}", "found it!" if found else f"{left} cell{'s' * (left > 1)} away")
    return board.finish()


class _Board:
    """Pixels, and where cells lie on them."""

    def __init__(self, size: int) -> None:
        self.cell = _SIDE * _OVERSAMPLE / size
        side = _SIDE * _OVERSAMPLE
        self.image = Image.new("RGB", (side, side + _BAR * _OVERSAMPLE), _STRIP)
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        for y in range(size):
            for x in range(size):
                box = [x * self.cell, y * self.cell, (x + 1) * self.cell, (y + 1) * self.cell]
                self.pen.rectangle(box, fill=_MEADOW[(x + y) % 2])
                self._grass(x, y)
        self.pen.rectangle([0, 0, side - 1, side - 1], outline=_EDGE, width=round(0.06 * self.cell))

    def at(self, cell: tuple[int, int], right: float = 0.0, down: float = 0.0) -> Point:
        """A point by its distance from a cell's middle, in cells."""
        return (cell[0] + 0.5 + right) * self.cell, (cell[1] + 0.5 + down) * self.cell

    def _grass(self, x: int, y: int) -> None:
        """Two tufts, somewhere else in every cell."""
        for tuft in range(2):
            angle = 2.4 * (x * 31 + y * 17 + tuft * 7)
            root_x, root_y = self.at((x, y), 0.36 * math.cos(angle), 0.36 * math.sin(1.7 * angle))
            for lean in (-0.05, 0.0, 0.05):
                tip = (root_x + lean * self.cell, root_y - 0.09 * self.cell)
                self.pen.line([(root_x, root_y), tip], fill=_EDGE, width=max(round(0.018 * self.cell), 1))

    def disc(self, centre: Point, radius: float, colour: tuple[int, ...], squash: float = 1.0) -> None:
        """An ellipse of a radius in cells."""
        (x, y), across, up = centre, radius * self.cell, radius * squash * self.cell
        self.pen.ellipse([x - across, y - up, x + across, y + up], fill=colour)

    def glow(self, cell: tuple[int, int]) -> None:
        for ring in range(12):
            self.disc(self.at(cell), 0.72 * (1 - ring / 14), (*_GLOW, 22 + 3 * ring))

    def flag(self, cell: tuple[int, int], colour: tuple[int, int, int]) -> None:
        foot, top = self.at(cell, -0.17, 0.22), self.at(cell, -0.17, -0.4)
        self.disc(self.at(cell, -0.13, 0.22), 0.17, _SHADOW, squash=0.35)
        cloth = [top, self.at(cell, 0.06, -0.41), self.at(cell, 0.3, -0.33), self.at(cell, 0.2, -0.22)]
        cloth += [self.at(cell, 0.3, -0.08), self.at(cell, 0.06, -0.12), self.at(cell, -0.17, -0.08)]
        self.pen.polygon(cloth, fill=colour)
        self.pen.line([foot, top], fill=_POLE, width=round(0.055 * self.cell))
        self.disc(top, 0.045, _POLE)

    def label(self, cell: tuple[int, int], chance: float) -> None:
        """Under a flag, how often it is the goal."""
        share = f"{chance:.0%}" if chance >= 0.01 else f"{chance:.1%}"
        font = ImageFont.load_default(size=0.18 * self.cell)
        self.pen.text(self.at(cell, 0.04, 0.345), share, fill=_LETTERS, font=font, anchor="mm")

    def footprints(self, trail: Sequence[tuple[int, int]]) -> None:
        """A pair of soles on each cell left behind, the older the fainter."""
        for age, (here, onward) in enumerate(zip(trail[-2::-1], trail[:0:-1], strict=True)):
            ahead = (onward[0] - here[0], onward[1] - here[1])
            if ahead == (0, 0):
                continue
            fill = (*_FOOT, max(190 - 11 * age, 50))
            for along, side in ((-0.12, -0.09), (0.12, 0.09), (0.36, -0.09), (0.6, 0.09)):
                right, down = along * ahead[0] - side * ahead[1], along * ahead[1] + side * ahead[0]
                self.disc(self.at(here, right, down), 0.05, fill)

    def walker(self, trail: Sequence[tuple[int, int]], cheering: bool) -> None:
        """The listener: a small robot that looks where it goes, and throws up its arms on the goal."""
        here = trail[-1]
        look = 0.0 if len(trail) < 2 else 0.05 * (here[0] - trail[-2][0])
        self.disc(self.at(here, 0.0, 0.34), 0.27, _SHADOW, squash=0.35)
        for side in (-1, 1):
            self._limb(here, (0.1 * side, 0.2), (0.12 * side, 0.34))
            hand = (0.33 * side, -0.2) if cheering else (0.3 * side, 0.17)
            self._limb(here, (0.19 * side, 0.06), hand)
            self.disc(self.at(here, *hand), 0.055, _STEEL)
        self._box(here, (-0.19, 0.0, 0.19, 0.26), _STEEL)
        self.disc(self.at(here, 0.0, 0.13), 0.055, (213, 94, 0))
        self._limb(here, (0.0, -0.32), (0.0, -0.42))
        self.disc(self.at(here, 0.0, -0.44), 0.05, _EYE)
        self._box(here, (-0.24, -0.33, 0.24, 0.0), _STEEL)
        self._box(here, (-0.19 + look, -0.26, 0.19 + look, -0.08), _DARK)
        for side in (-1, 1):
            self.disc(self.at(here, 0.09 * side + 1.3 * look, -0.17), 0.045, _EYE)

    def _limb(self, cell: tuple[int, int], start: Point, end: Point) -> None:
        self.pen.line([self.at(cell, *start), self.at(cell, *end)], fill=_DARK, width=round(0.06 * self.cell))

    def _box(self, cell: tuple[int, int], corners: Sequence[float], colour: tuple[int, int, int]) -> None:
        box, rim = [self.at(cell, *corners[:2]), self.at(cell, *corners[2:])], round(0.02 * self.cell)
        self.pen.rounded_rectangle(box, radius=0.08 * self.cell, fill=colour, outline=_DARK, width=rim)

    def finish(self) -> np.ndarray:
        return np.asarray(self.image.resize((_SIDE, _SIDE + _BAR), Image.Resampling.LANCZOS), np.uint8)


class _Strip:
    """The strip below the board: time, the speaker with what it sees, and how far the listener is."""

    def __init__(self, board: _Board) -> None:
        self.pen = board.pen
        self.middle = (_SIDE + _BAR / 2) * _OVERSAMPLE
        self.pen.rectangle([self._at(-_SIDE / 2, -_BAR / 2), self._at(_SIDE / 2, _BAR / 2)], fill=_STRIP)

    def _at(self, x: float, y: float) -> Point:
        """A point by pixels of the finished picture, right of the middle and below the strip's middle."""
        return (_SIDE / 2 + x) * _OVERSAMPLE, self.middle + y * _OVERSAMPLE

    def _disc(self, x: float, y: float, across: float, up: float, colour: tuple[int, int, int]) -> None:
        self.pen.ellipse([self._at(x - across, y - up), self._at(x + across, y + up)], fill=colour)

    def speaker(self, colour: tuple[int, int, int]) -> None:
        """An owl, which sees everything, thinks of the goal's flag."""
        owl = -44.0
        for side in (-1, 1):
            ear = [self._at(owl + 7 * side, -20), self._at(owl + 19 * side, -31), self._at(owl + 18 * side, -12)]
            self.pen.polygon(ear, fill=_FEATHER)
        self._disc(owl, 2, 21, 28, _FEATHER)
        self._disc(owl, 13, 13, 15, _BELLY)
        for side in (-1, 1):
            self._disc(owl + 9 * side, -9, 9.5, 9.5, (250, 248, 240))
            self._disc(owl + 9 * side + 2, -9, 4.5, 4.5, (30, 26, 22))
        self.pen.polygon([self._at(owl - 4, -3), self._at(owl + 4, -3), self._at(owl, 5)], fill=_BEAK)
        for x, y, radius in ((-15, 4, 3), (-6, 0, 4.5)):
            self._disc(x, y, radius, radius, _INK)
        self.pen.rounded_rectangle([self._at(2, -28), self._at(66, 26)], radius=20 * _OVERSAMPLE, fill=_INK)
        cloth = ((24, -20), (38, -21), (52, -17), (46, -9), (52, -1), (24, -2))
        self.pen.polygon([self._at(x, y) for x, y in cloth], fill=colour)
        self.pen.line([self._at(24, -21), self._at(24, 20)], fill=_DARK, width=3 * _OVERSAMPLE)

    def words(self, left: str, right: str) -> None:
        font = ImageFont.load_default(size=20 * _OVERSAMPLE)
        self.pen.text(self._at(16 - _SIDE / 2, 0), left, fill=_INK, font=font, anchor="lm")
        colour = _GLOW if right.endswith("!") else _FAINT
        self.pen.text(self._at(_SIDE / 2 - 16, 0), right, fill=colour, font=font, anchor="rm")
