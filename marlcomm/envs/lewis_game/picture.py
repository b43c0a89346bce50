"""Pictures of the Lewis game: creatures in knitted jumpers; a parrot has seen one of them, and which one is it?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marlcomm.envs.lewis_game.settings import Game

_SIDE = 720  # pixels of the crowd
_LEFT = 250  # pixels of the panel beside it
_BAR = 44  # pixels of the strip at the bottom
_OVERSAMPLE = 2  # drawn larger and scaled down, so that edges are smooth
_FACE = 4  # attributes that the head shows: fur, eyes, mouth, ears; the jumper shows the others

_WALL, _PANEL, _STRIP, _INK, _FAINT, _GLOW = (
    (236, 229, 214), (70, 92, 110), (34, 38, 43), (238, 238, 232), (168, 172, 176), (255, 214, 80),
)  # fmt: skip
_DARK, _WHITE, _TONGUE, _WRONG, _RIGHT = (40, 36, 40), (252, 250, 244), (222, 96, 110), (213, 60, 40), (0, 140, 100)
# Colours that stay apart under common colour blindness (Okabe and Ito), then lighter and darker ones.
_WOOL = (
    (0, 114, 178), (240, 228, 66), (213, 94, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (230, 159, 0),
    (245, 245, 245), (110, 70, 150), (60, 60, 64), (160, 214, 140), (250, 190, 190), (128, 64, 40), (150, 160, 200),
    (30, 80, 60), (200, 200, 120),
)  # fmt: skip
_FUR = (
    (190, 140, 96), (226, 202, 168), (148, 148, 156), (120, 160, 140), (214, 160, 150), (130, 110, 150),
    (240, 236, 226), (96, 78, 70), (176, 190, 110), (150, 190, 214), (236, 190, 110), (110, 120, 90), (200, 120, 90),
    (180, 180, 190), (90, 110, 130), (220, 180, 220),
)  # fmt: skip

Box = tuple[float, float, float]  # left, top, side


def draw(game: Game, candidates: Sequence[Sequence[int]], *, target: int, chosen: int | None, step: str) -> np.ndarray:
    """A picture [height, width, 3] uint8 of one round.

    Args:
        game: what it is made of.
        candidates: K objects of A values each.
        target: the place of the one that the sender sees.
        chosen: the place of the one that the receiver has chosen; None before.
        step: how far the talk has come.
    """
    page = _Page()
    page.sender(candidates[target])
    columns = math.ceil(math.sqrt(game.candidates))
    side = _SIDE * _OVERSAMPLE / columns
    for place, values in enumerate(candidates):
        left, top = _LEFT * _OVERSAMPLE + place % columns * side, place // columns * side
        if place == chosen:
            page.frame((left, top, side), _RIGHT if chosen == target else _WRONG)
        elif place == target and chosen is not None:
            page.frame((left, top, side), _GLOW)
        page.creature((left + 0.08 * side, top + 0.06 * side, 0.84 * side), values)
    found = "which one?" if chosen is None else "found it!" if chosen == target else "not this one"
    return page.finish(f"{step}, {game.min_symbols} symbols needed", found)


class _Page:
    """The sender's panel on the left, the crowd on the right."""

    def __init__(self) -> None:
        size = ((_LEFT + _SIDE) * _OVERSAMPLE, (_SIDE + _BAR) * _OVERSAMPLE)
        self.image = Image.new("RGB", size, _WALL)
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        self.pen.rectangle([0, 0, _LEFT * _OVERSAMPLE, _SIDE * _OVERSAMPLE], fill=_PANEL)
        self.pen.rectangle([0, _SIDE * _OVERSAMPLE, *size], fill=_STRIP)

    def frame(self, box: Box, colour: tuple[int, int, int]) -> None:
        left, top, side = box
        inset = 0.02 * side
        corners = [left + inset, top + inset, left + side - inset, top + side - inset]
        self.pen.rounded_rectangle(corners, 0.12 * side, (*colour, 110), colour, round(0.05 * side))

    def creature(self, box: Box, values: Sequence[int]) -> None:
        """Anything with these attributes, always in the same way."""
        fur, eyes, mouth, ears = (*values[:_FACE], *[0] * _FACE)[:_FACE]
        self._ears(box, _FUR[fur], ears)
        self._jumper(box, values[_FACE:], _FUR[fur])
        self._ellipse(box, 0.5, 0.27, 0.25, 0.22, _FUR[fur])
        self._eyes(box, eyes)
        self._mouth(box, mouth)

    def _ears(self, box: Box, fur: tuple[int, int, int], kind: int) -> None:
        """Round, pointed, long or none; more kinds by a knob of another colour."""
        for side in (-1, 1):
            if kind % 4 == 0:
                self._ellipse(box, 0.5 + 0.2 * side, 0.12, 0.1, 0.1, fur)
            elif kind % 4 == 1:
                ear = [(0.5 + 0.08 * side, 0.12), (0.5 + 0.27 * side, -0.03), (0.5 + 0.26 * side, 0.24)]
                self.pen.polygon([self._at(box, *corner) for corner in ear], fill=fur, outline=_DARK)
            elif kind % 4 == 2:
                self._ellipse(box, 0.5 + 0.28 * side, 0.32, 0.07, 0.19, fur)
        if kind >= 4:
            self._ellipse(box, 0.5, 0.03, 0.06, 0.06, _WOOL[kind])

    def _jumper(self, box: Box, values: Sequence[int], fur: tuple[int, int, int]) -> None:
        """A patch of wool for each attribute, row by row, between two sleeves."""
        for side in (-1, 1):
            self._ellipse(box, 0.5 + 0.36 * side, 0.66, 0.1, 0.17, fur)
            self._ellipse(box, 0.5 + 0.17 * side, 0.97, 0.12, 0.045, fur)
        columns = math.ceil(math.sqrt(max(len(values), 1)))
        rows = math.ceil(len(values) / columns)
        left, top = self._at(box, 0.19, 0.44)
        right, bottom = self._at(box, 0.81, 0.96)
        for number, value in enumerate(values):
            x, y = number % columns, number // columns
            patch = [left + (right - left) * x / columns, top + (bottom - top) * y / rows]
            patch += [left + (right - left) * (x + 1) / columns, top + (bottom - top) * (y + 1) / rows]
            self.pen.rectangle(patch, fill=_WOOL[value])
        thin = max(round(0.014 * box[2]), 1)
        self.pen.rounded_rectangle([left, top, right, bottom], 0.03 * box[2], outline=_DARK, width=thin)

    def _eyes(self, box: Box, kind: int) -> None:
        """Open, cheerful, sleepy or a single one; more kinds by their colour."""
        colour = _DARK if kind < 4 else _WOOL[kind]
        thin = max(round(0.025 * box[2]), 1)
        for side in (0,) if kind % 4 == 3 else (-1, 1):
            x = 0.5 + 0.1 * side
            if kind % 4 in (0, 3):
                self._ellipse(box, x, 0.23, 0.08 - 0.015 * abs(side), 0.08 - 0.015 * abs(side), _WHITE)
                self._ellipse(box, x, 0.24, 0.03, 0.035, colour)
            elif kind % 4 == 1:
                peak = [self._at(box, x - 0.05, 0.26), self._at(box, x, 0.2), self._at(box, x + 0.05, 0.26)]
                self.pen.line(peak, fill=colour, width=thin)
            else:
                self.pen.line([self._at(box, x - 0.05, 0.24), self._at(box, x + 0.05, 0.24)], fill=colour, width=thin)

    def _mouth(self, box: Box, kind: int) -> None:
        """A smile, a frown, surprise or a tongue; more kinds by their colour."""
        colour = _DARK if kind < 4 else _WOOL[kind]
        thin = max(round(0.025 * box[2]), 1)
        if kind % 4 == 2:
            self._ellipse(box, 0.5, 0.4, 0.04, 0.045, colour)
            return
        down = 0.39 if kind % 4 == 1 else 0.33
        arc = [*self._at(box, 0.4, down), *self._at(box, 0.6, down + 0.1)]
        self.pen.arc(arc, *((190, 350) if kind % 4 == 1 else (10, 170)), fill=colour, width=thin)
        if kind % 4 == 3:
            self._ellipse(box, 0.53, 0.44, 0.04, 0.05, _TONGUE)

    def sender(self, values: Sequence[int]) -> None:
        """A parrot that has seen the target, and thinks of it."""
        scale = float(_OVERSAMPLE)
        cloud = [18 * scale, 60 * scale, (_LEFT - 18) * scale, 330 * scale]
        self.pen.rounded_rectangle(cloud, 70 * scale, _INK)
        for x, y, radius in ((112, 350, 13), (122, 380, 8)):
            corners = [x - radius, y - radius, x + radius, y + radius]
            self.pen.ellipse([scale * corner for corner in corners], _INK)
        self.creature((44 * scale, 92 * scale, 162 * scale), values)
        bird = (25 * scale, 400 * scale, 200 * scale)
        self._ellipse(bird, 0.45, 0.72, 0.27, 0.4, (0, 158, 115))
        self._ellipse(bird, 0.36, 0.78, 0.12, 0.26, (0, 114, 178))
        self._ellipse(bird, 0.52, 0.3, 0.21, 0.21, (213, 60, 40))
        self._ellipse(bird, 0.57, 0.26, 0.09, 0.09, _WHITE)
        self._ellipse(bird, 0.59, 0.26, 0.04, 0.045, _DARK)
        beak = [self._at(bird, *corner) for corner in ((0.69, 0.2), (0.88, 0.33), (0.78, 0.42), (0.69, 0.38))]
        self.pen.polygon(beak, fill=(230, 159, 0), outline=_DARK)
        self.pen.rectangle([0, 620 * scale, _LEFT * scale, 632 * scale], fill=(128, 84, 50))

    def _at(self, box: Box, right: float, down: float) -> tuple[float, float]:
        """A point by shares of a box."""
        return box[0] + right * box[2], box[1] + down * box[2]

    def _ellipse(self, box: Box, x: float, y: float, across: float, up: float, colour: tuple[int, int, int]) -> None:
        corners = [self._at(box, x - across, y - up), self._at(box, x + across, y + up)]
        self.pen.ellipse(corners, fill=colour, outline=_DARK, width=max(round(0.012 * box[2]), 1))

    def finish(self, left: str, right: str) -> np.ndarray:
        middle, font = (_SIDE + _BAR / 2) * _OVERSAMPLE, ImageFont.load_default(size=20 * _OVERSAMPLE)
        self.pen.text((16 * _OVERSAMPLE, middle), left, fill=_INK, font=font, anchor="lm")
        edge = (_LEFT + _SIDE - 16) * _OVERSAMPLE
        self.pen.text((edge, middle), right, fill=_GLOW if right.endswith("!") else _FAINT, font=font, anchor="rm")
        small = self.image.resize((_LEFT + _SIDE, _SIDE + _BAR), Image.Resampling.LANCZOS)
        return np.asarray(small, np.uint8)
