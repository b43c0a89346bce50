"""Pictures of Predator-Prey: cats with lanterns look for a mouse in a garden at night."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marlcomm.envs.predator_prey.settings import Preset

_SIDE = 560  # pixels of the garden
_OVERSAMPLE = 3  # drawn larger and scaled down, so that edges are smooth
_BAR = 44  # pixels of the strip at the bottom
_PRINTS = 8  # steps for which paw prints can be seen

_NIGHT, _LIT = ((38, 58, 66), (42, 63, 70)), ((122, 152, 88), (130, 160, 95))
_BLADES, _STRIP, _INK, _FAINT, _GLOW = (86, 116, 62), (24, 30, 38), (238, 238, 232), (168, 172, 176), (255, 226, 130)
_DARK, _EYE, _NOSE = (36, 34, 40), (250, 250, 240), (226, 120, 130)
_FUR, _EAR, _TAIL = (176, 174, 182), (236, 190, 200), (206, 150, 160)
# Colours that stay apart under common colour blindness (Okabe and Ito), then lighter ones for large teams.
_COATS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (245, 245, 245), (170, 110, 40), (150, 220, 190),
)  # fmt: skip

Point = tuple[float, float]
Colour = tuple[int, ...]


def draw(grid: Preset, trail: Sequence[tuple[Sequence[int], int]], *, steps: int) -> np.ndarray:
    """A picture [height, width, 3] uint8 of one world.

    Args:
        grid: its sizes.
        trail: the cells of all predators, and the prey's cell, at every step so far.
        steps: how many of them were played before all were there, or till now.
    """
    predators, prey = trail[steps]
    garden = _Garden(grid.size)
    garden.lawn(_lit(grid, predators))
    for slot in range(grid.predators):
        garden.prints([cells[slot] for cells, _ in trail[max(steps - _PRINTS, 0) : steps + 1]], _coat(slot))
    garden.mouse(prey, found=prey in predators)
    there = defaultdict(list)
    for slot, cell in enumerate(predators):
        there[cell].append(slot)
    for cell, slots in there.items():
        for slot, (right, down, scale) in zip(slots, _places(len(slots), crowded=cell == prey), strict=True):
            garden.cat(cell, right, down, scale, _coat(slot), happy=cell == prey)
    arrived = len(there[prey])
    found = "caught!" if arrived == grid.predators else f"{arrived} of {grid.predators} at the mouse"
    return garden.finish(f"step {steps} / {grid.horizon}", found)


def _lit(grid: Preset, predators: Iterable[int]) -> set[tuple[int, int]]:
    """The cells (row, column) that somebody sees."""
    reach = range(-grid.vision, grid.vision + 1)
    return {
        (cell // grid.size + down, cell % grid.size + right) for cell in predators for down in reach for right in reach
    }


def _places(number: int, crowded: bool) -> list[tuple[float, float, float]]:
    """Where those who share a cell sit, right and down of its middle, and how large they are; around a prey if any."""
    if number == 1 and not crowded:
        return [(0.0, 0.0, 1.0)]
    scale = max(0.34, 0.6 - 0.04 * number)
    angles = [math.tau * index / number + math.pi / 6 for index in range(number)]
    away = 0.33 if crowded else 0.25
    return [(away * math.cos(angle), away * math.sin(angle), scale) for angle in angles]


class _Garden:
    """Pixels, and where cells lie on them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.cell = _SIDE * _OVERSAMPLE / size
        side = _SIDE * _OVERSAMPLE
        self.image = Image.new("RGB", (side, side + _BAR * _OVERSAMPLE), _STRIP)
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def _at(self, cell: int, right: float = 0.0, down: float = 0.0) -> Point:
        """A point by its distance from a cell's middle, in cells."""
        return (cell % self.size + 0.5 + right) * self.cell, (cell // self.size + 0.5 + down) * self.cell

    def lawn(self, lit: set[tuple[int, int]]) -> None:
        for cell in range(self.size**2):
            row, column = divmod(cell, self.size)
            bright = (row, column) in lit
            box = [self._at(cell, -0.5, -0.5), self._at(cell, 0.5, 0.5)]
            self.pen.rectangle(box, fill=(_LIT if bright else _NIGHT)[(row + column) % 2])
            if bright:
                self._grass(cell)

    def _grass(self, cell: int) -> None:
        """Two tufts, somewhere else in every cell."""
        for tuft in range(2):
            angle = 2.4 * (cell * 31 + tuft * 7)
            right, down = 0.36 * math.cos(angle), 0.36 * math.sin(1.7 * angle)
            for lean in (-0.05, 0.0, 0.05):
                ends = [self._at(cell, right, down), self._at(cell, right + lean, down - 0.09)]
                self.pen.line(ends, fill=_BLADES, width=max(round(0.018 * self.cell), 1))

    def _disc(self, centre: Point, radius: float, colour: Colour, squash: float = 1.0) -> None:
        """An ellipse of a radius in cells."""
        (x, y), across, up = centre, radius * self.cell, radius * squash * self.cell
        self.pen.ellipse([x - across, y - up, x + across, y + up], fill=colour)

    def prints(self, cells: Sequence[int], colour: Colour) -> None:
        """Paws on the cells left behind, the older the fainter."""
        for age, (here, onward) in enumerate(zip(cells[-2::-1], cells[:0:-1], strict=True)):
            ahead = (onward % self.size - here % self.size, onward // self.size - here // self.size)
            if ahead == (0, 0):
                continue
            fill = (*colour, 190 - 150 * age // _PRINTS)
            for along, side in ((0.1, -0.1), (0.35, 0.1), (0.6, -0.1)):
                right, down = along * ahead[0] - side * ahead[1], along * ahead[1] + side * ahead[0]
                self._disc(self._at(here, right, down), 0.055, fill)

    def mouse(self, cell: int, found: bool) -> None:
        size = 0.62 if found else 1.0
        tail = [self._at(cell, size * x, size * y) for x, y in ((0.2, 0.2), (0.34, 0.22), (0.4, 0.1), (0.36, 0.0))]
        self.pen.line(tail, fill=_TAIL, width=max(round(0.04 * size * self.cell), 2), joint="curve")
        self._disc(self._at(cell, 0.0, 0.1 * size), 0.25 * size, _FUR, squash=0.9)
        for side in (-1, 1):
            self._disc(self._at(cell, 0.17 * side * size, -0.16 * size), 0.14 * size, _FUR)
            self._disc(self._at(cell, 0.17 * side * size, -0.16 * size), 0.09 * size, _EAR)
            self._disc(self._at(cell, 0.09 * side * size, 0.04 * size), (0.06 if found else 0.045) * size, _EYE)
            self._disc(self._at(cell, 0.09 * side * size, 0.05 * size), 0.03 * size, _DARK)
        self._disc(self._at(cell, 0.0, 0.16 * size), 0.045 * size, _NOSE)

    def cat(self, cell: int, right: float, down: float, scale: float, coat: Colour, happy: bool) -> None:
        def at(x: float, y: float) -> Point:
            return self._at(cell, right + scale * x, down + scale * y)

        thin = max(round(0.03 * scale * self.cell), 2)
        self._disc(at(0.0, 0.34), 0.26 * scale, (10, 16, 20, 90), squash=0.3)
        for side in (-1, 1):
            self.pen.polygon(
                [at(0.06 * side, -0.2), at(0.27 * side, -0.43), at(0.31 * side, -0.02)], fill=coat, outline=_DARK
            )
            self.pen.polygon([at(0.13 * side, -0.2), at(0.24 * side, -0.33), at(0.26 * side, -0.08)], fill=_EAR)
        x, y = at(0.0, 0.05)
        across, up = 0.34 * scale * self.cell, 0.28 * scale * self.cell
        self.pen.ellipse([x - across, y - up, x + across, y + up], fill=coat, outline=_DARK, width=thin)
        for side in (-1, 1):
            if happy:
                self.pen.line(
                    [at(0.07 * side, 0.02), at(0.13 * side, -0.06), at(0.19 * side, 0.02)], fill=_DARK, width=thin
                )
            else:
                self._disc(at(0.14 * side, 0.0), 0.085 * scale, _EYE)
                self._disc(at(0.14 * side, 0.01), 0.05 * scale, _DARK, squash=1.4)
            for lean in (0.1, 0.17):
                self.pen.line([at(0.16 * side, 0.14), at(0.42 * side, lean)], fill=_DARK, width=max(thin // 2, 1))
        self.pen.polygon([at(-0.04, 0.1), at(0.04, 0.1), at(0.0, 0.15)], fill=_NOSE)

    def finish(self, left: str, right: str) -> np.ndarray:
        middle = (_SIDE + _BAR / 2) * _OVERSAMPLE
        font = ImageFont.load_default(size=20 * _OVERSAMPLE)
        self.pen.rectangle([0, _SIDE * _OVERSAMPLE, _SIDE * _OVERSAMPLE, (_SIDE + _BAR) * _OVERSAMPLE], fill=_STRIP)
        self.pen.text((16 * _OVERSAMPLE, middle), left, fill=_INK, font=font, anchor="lm")
        colour = _GLOW if right.endswith("!") else _FAINT
        self.pen.text(((_SIDE - 16) * _OVERSAMPLE, middle), right, fill=colour, font=font, anchor="rm")
        small = self.image.resize((_SIDE, _SIDE + _BAR), Image.Resampling.LANCZOS)
        return np.asarray(small, np.uint8)


def _coat(slot: int) -> Colour:
    return _COATS[slot % len(_COATS)]
