"""Pictures of Particle Spread: saucers with burning engines drift between beacons in space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marlcomm.envs.particle_spread.physics import TOUCH
from marlcomm.envs.particle_spread.settings import ParticleSpreadSettings

_SIDE = 560  # pixels of the field
_OVERSAMPLE = 3  # drawn larger and scaled down, so that edges are smooth
_BAR = 44  # pixels of the strip at the bottom
_REACH = 1.3  # what is in the picture at least, from the middle to an edge
_CAPTURE = 0.1

_SPACE, _STRIP, _INK, _FAINT = (13, 16, 32), (34, 38, 43), (238, 238, 232), (168, 172, 176)
_SQUARE, _STAR, _BEACON, _LIT = (64, 76, 122), (206, 214, 240), (150, 160, 190), (255, 226, 120)
_GLASS, _FLAME, _CORE, _SPARK = (206, 236, 255), (255, 138, 48), (255, 240, 170), (255, 244, 190)
# Colours that stay apart under common colour blindness (Okabe and Ito), then more for large teams.
_PAINTS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (245, 245, 245), (170, 110, 40), (150, 220, 190),
)  # fmt: skip

Point = Sequence[float]


@dataclass(frozen=True)
class Shot:
    """What is in a picture: the agents' places [N][2] at each step till now, and of now the landmarks and forces."""

    path: list[list[Point]]
    landmarks: list[Point]
    forces: list[Point]
    time: int
    collisions: int

    @property
    def places(self) -> list[Point]:
        return self.path[-1]


def draw(settings: ParticleSpreadSettings, shot: Shot) -> np.ndarray:
    """A picture [height, width, 3] uint8 of one world."""
    personal = settings.view == "other_landmark"
    canvas = _Canvas(max(_REACH, *(abs(x) + TOUCH for place in shot.places for x in place)))
    canvas.stars()
    canvas.square()
    covered = 0
    for slot, landmark in enumerate(shot.landmarks):
        near = [slot] if personal else range(settings.agents)
        scorer = min(near, key=lambda agent: math.dist(shot.places[agent], landmark))
        lit = math.dist(shot.places[scorer], landmark) < _CAPTURE
        covered += lit
        canvas.tether(shot.places[scorer], landmark, _PAINTS[scorer])
        canvas.beacon(landmark, slot, lit, _PAINTS[slot] if personal else _BEACON)
    for slot in range(settings.agents):
        canvas.trail([places[slot] for places in shot.path], _PAINTS[slot])
        if settings.view == "radius":
            canvas.sight(shot.places[slot], settings.radius, _PAINTS[slot])
        if personal:
            canvas.glance(shot.places[slot], shot.landmarks[(slot + 1) % settings.agents], _PAINTS[slot])
    for slot, place in enumerate(shot.places):
        canvas.engine(place, shot.forces[slot])
        canvas.saucer(place, _PAINTS[slot], str(slot))
    for slot, place in enumerate(shot.places):
        for other in shot.places[:slot]:
            if math.dist(place, other) < TOUCH:
                canvas.spark([(a + b) / 2 for a, b in zip(place, other, strict=True)])
    bumps = f"{shot.collisions} bump{'s' * (shot.collisions != 1)}"
    return canvas.finish(f"step {shot.time} / {settings.horizon}", f"{covered} of {settings.agents} covered", bumps)


class _Canvas:
    """Pixels, and where places lie on them."""

    def __init__(self, reach: float) -> None:
        side = _SIDE * _OVERSAMPLE
        self.scale = side / (2 * reach)  # pixels of a unit
        self.image = Image.new("RGB", (side, side + _BAR * _OVERSAMPLE), _SPACE)
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def at(self, place: Point, right: float = 0.0, up: float = 0.0) -> tuple[float, float]:
        middle = _SIDE * _OVERSAMPLE / 2
        return middle + (place[0] + right) * self.scale, middle - (place[1] + up) * self.scale

    def disc(self, centre: Point, radius: float, **paint: Any) -> None:
        """A disc or a ring around a place, of a radius in units of the plane."""
        (x, y), size = self.at(centre), radius * self.scale
        self.pen.ellipse([x - size, y - size, x + size, y + size], **paint)

    def width(self, of: float) -> int:
        return max(round(of * self.scale), 1)

    def stars(self) -> None:
        """The same sky in every picture."""
        side = _SIDE * _OVERSAMPLE
        for x, y, size in np.random.default_rng(7).random((150, 3)):
            radius = (0.5 + 1.3 * size**3) * _OVERSAMPLE / 2
            glow = (*_STAR, round(70 + 160 * size))
            self.pen.ellipse([x * side - radius, y * side - radius, x * side + radius, y * side + radius], fill=glow)

    def square(self) -> None:
        """Where episodes begin."""
        self.pen.rectangle([self.at((-1, 1)), self.at((1, -1))], outline=(*_SQUARE, 160), width=self.width(0.008))

    def beacon(self, place: Point, number: int, lit: bool, colour: tuple[int, int, int]) -> None:
        """A landmark: rings that glow when it is covered, with its number above."""
        if lit:
            for ring in range(10):
                self.disc(place, 0.3 * (1 - ring / 11), fill=(*_LIT, 16))
        for radius in (_CAPTURE, 0.045):
            self.disc(place, radius, outline=_LIT if lit else colour, width=self.width(0.018))
        font = ImageFont.load_default(size=0.1 * self.scale)
        self.pen.text(self.at(place, 0.0, 0.21), str(number), fill=_LIT if lit else colour, font=font, anchor="mm")

    def tether(self, start: Point, end: Point, colour: tuple[int, int, int]) -> None:
        """From who scores a landmark to the landmark."""
        self.pen.line([self.at(start), self.at(end)], fill=(*colour, 60), width=self.width(0.012))

    def glance(self, start: Point, end: Point, colour: tuple[int, int, int]) -> None:
        """Dots from who sees a landmark that another one needs."""
        dots = max(round(math.dist(start, end) / 0.07), 1)
        for dot in range(1, dots):
            place = [a + (b - a) * dot / dots for a, b in zip(start, end, strict=True)]
            self.disc(place, 0.011, fill=(*colour, 200))

    def sight(self, place: Point, radius: float, colour: tuple[int, int, int]) -> None:
        self.disc(place, radius, fill=(*colour, 16), outline=(*colour, 90), width=self.width(0.008))

    def trail(self, places: Sequence[Point], colour: tuple[int, int, int]) -> None:
        """Where an agent came from, the longer ago the fainter."""
        for age, (start, end) in enumerate(zip(places[-2::-1], places[:0:-1], strict=True)):
            fill = (*colour, max(150 - 9 * age, 20))
            self.pen.line([self.at(start), self.at(end)], fill=fill, width=self.width(0.02))

    def engine(self, place: Point, force: Point) -> None:
        """A flame on the side that an agent pushed away from."""
        size = math.hypot(*force)
        if size == 0:
            return
        x, y = -force[0] / size, -force[1] / size
        for length, half, colour in ((0.34, 0.075, _FLAME), (0.26, 0.04, _CORE)):
            root = [self.at(place, 0.1 * x - side * half * y, 0.1 * y + side * half * x) for side in (-1, 1)]
            self.pen.polygon([*root, self.at(place, length * x, length * y)], fill=colour)

    def saucer(self, place: Point, colour: tuple[int, int, int], name: str) -> None:
        """An agent from above: a hull as large as it is, a row of lights, a dome with its number."""
        dark = tuple(value * 2 // 5 for value in colour)
        self.disc(place, TOUCH / 2, fill=dark)
        self.disc(place, 0.138, fill=colour)
        for lamp in range(8):
            angle = math.tau * lamp / 8
            self.disc([place[0] + 0.112 * math.cos(angle), place[1] + 0.112 * math.sin(angle)], 0.014, fill=_CORE)
        self.disc(place, 0.078, fill=_GLASS, outline=dark, width=self.width(0.012))
        font = ImageFont.load_default(size=0.1 * self.scale)
        self.pen.text(self.at(place), name, fill=_SPACE, font=font, anchor="mm")

    def spark(self, place: Point) -> None:
        """Two agents touch."""
        points = []
        for spike in range(16):
            angle, radius = math.tau * spike / 16, 0.13 if spike % 2 == 0 else 0.045
            points.append(self.at(place, radius * math.cos(angle), radius * math.sin(angle)))
        self.pen.polygon(points, fill=_SPARK, outline=_FLAME)

    def finish(self, *words: str) -> np.ndarray:
        side = _SIDE * _OVERSAMPLE
        self.pen.rectangle([0, side, side, side + _BAR * _OVERSAMPLE], fill=_STRIP)
        font = ImageFont.load_default(size=20 * _OVERSAMPLE)
        edge, middle = 14 * _OVERSAMPLE, side + _BAR * _OVERSAMPLE / 2
        places = ((edge, "lm", _INK), (side / 2, "mm", _INK), (side - edge, "rm", _FAINT))
        for word, (x, anchor, colour) in zip(words, places, strict=True):
            self.pen.text((x, middle), word, fill=colour, font=font, anchor=anchor)
        return np.asarray(self.image.resize((_SIDE, _SIDE + _BAR), Image.Resampling.LANCZOS), np.uint8)
