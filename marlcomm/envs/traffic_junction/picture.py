"""Pictures of Traffic Junction: roads, cars with their lights, where each is going, and crashes."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from marlcomm.envs.traffic_junction.roads import Cell, RoadMap

_SIDE = 560  # pixels of the picture
_OVERSAMPLE = 3  # drawn larger and scaled down, so that edges are smooth
_BAR = 44  # pixels of the strip at the bottom

_GRASS, _ASPHALT, _MARKING = (126, 160, 98), (74, 78, 84), (214, 214, 206)
_STRIP, _INK, _ALARM = (34, 38, 43), (238, 238, 232), (255, 96, 72)
_GLASS, _BRAKE_LIGHT, _HEADLIGHT = (40, 52, 66), (255, 44, 36), (255, 246, 190)
# A car's outline, (ahead, to the right) in cells.
_BODY = (
    (-0.36, -0.19), (-0.31, -0.22), (0.27, -0.22), (0.36, -0.13),
    (0.36, 0.13), (0.27, 0.22), (-0.31, 0.22), (-0.36, 0.19),
)  # fmt: skip
# Colours that stay apart under common colour blindness (Okabe and Ito), then lighter ones for large teams.
_PAINTS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
    (213, 94, 0), (204, 121, 167), (245, 245, 245), (170, 110, 40), (150, 220, 190),
)  # fmt: skip


@dataclass(frozen=True)
class Car:
    """A car to draw: its slot (for the colour), the route it follows, cells driven, and whether it just braked."""

    slot: int
    route: int
    progress: int
    braked: bool


def draw(roads: RoadMap, cars: list[Car], *, time: int, horizon: int, crashes: int) -> np.ndarray:
    """A picture [height, width, 3] uint8 of one world."""
    canvas = _Canvas(roads)
    canvas.draw_roads()
    by_cell: dict[Cell, list[Car]] = defaultdict(list)
    for car in cars:
        by_cell[roads.routes[car.route][car.progress]].append(car)
        canvas.draw_way(car)
    for cell, together in by_cell.items():
        if len(together) > 1:
            canvas.draw_crash(cell)
        for index, car in enumerate(together):
            canvas.draw_car(car, shift=0.2 * (index - (len(together) - 1) / 2))
    return canvas.finish(
        f"step {time} / {horizon}", f"{len(cars)} cars", f"{crashes} in crashes" if crashes else "no crash"
    )


class _Canvas:
    """Pixels, and where cells lie on them."""

    def __init__(self, roads: RoadMap) -> None:
        self.roads = roads
        self.cell = _SIDE * _OVERSAMPLE / roads.size
        side = _SIDE * _OVERSAMPLE
        self.image = Image.new("RGB", (side, side + _BAR * _OVERSAMPLE), _GRASS)
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def centre(self, cell: Cell) -> tuple[float, float]:
        return (cell[1] + 0.5) * self.cell, (cell[0] + 0.5) * self.cell

    def draw_roads(self) -> None:
        headings = self.roads.headings
        for row, column in headings:
            self.pen.rectangle(
                [column * self.cell, row * self.cell, (column + 1) * self.cell, (row + 1) * self.cell], fill=_ASPHALT
            )
        for (row, column), ways in headings.items():
            for y, x in ((1, 0), (0, 1)):
                neighbour = headings.get((row + y, column + x))
                # Lanes side by side with opposite headings: a dashed line between them.
                if neighbour is not None and len(ways) == len(neighbour) == 1 and ways[0] == _opposite(neighbour[0]):
                    self._dash(row, column, y, x)
            if len(ways) == 1:
                self._arrow((row, column), ways[0])

    def _dash(self, row: int, column: int, y: int, x: int) -> None:
        from_x, from_y = (column + x) * self.cell, (row + y) * self.cell
        along = (0.2 * self.cell, 0.8 * self.cell)
        width = max(round(0.05 * self.cell), 1)
        if y:
            self.pen.line([from_x + along[0], from_y, from_x + along[1], from_y], fill=_MARKING, width=width)
        else:
            self.pen.line([from_x, from_y + along[0], from_x, from_y + along[1]], fill=_MARKING, width=width)

    def _arrow(self, cell: Cell, heading: Cell) -> None:
        tip = [(0.16, 0.0), (-0.06, 0.11), (-0.02, 0.0), (-0.06, -0.11)]
        self.pen.polygon(self._place(cell, heading, tip), fill=(*_MARKING, 70))

    def draw_way(self, car: Car) -> None:
        """The rest of the route, as a line in the car's colour that fades into the exit."""
        route = self.roads.routes[car.route][car.progress :]
        points = [self.centre(cell) for cell in route]
        offset = (car.slot % 5 - 2) * 0.07 * self.cell  # routes that share a lane stay apart
        points = [(x + offset, y + offset) for x, y in points]
        if len(points) > 1:
            self.pen.line(points, fill=(*_paint(car.slot), 150), width=max(round(0.07 * self.cell), 2), joint="curve")
        x, y = points[-1]
        radius = 0.11 * self.cell
        self.pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(*_paint(car.slot), 210))

    def draw_car(self, car: Car, shift: float) -> None:
        route = self.roads.routes[car.route]
        cell = route[car.progress]
        after = route[min(car.progress + 1, len(route) - 1)]
        before = route[max(car.progress - 1, 0)]
        heading = (
            (after[0] - cell[0], after[1] - cell[1]) if after != cell else (cell[0] - before[0], cell[1] - before[1])
        )

        def place(*shape: tuple[float, float]) -> list[tuple[float, float]]:
            return self._place(cell, heading, [(ahead + shift, right + shift) for ahead, right in shape])

        self.pen.polygon(place(*((ahead - 0.02, right + 0.05) for ahead, right in _BODY)), fill=(0, 0, 0, 70))
        self.pen.polygon(place(*_BODY), fill=_paint(car.slot), outline=(30, 30, 30))
        self.pen.polygon(place((0.04, -0.16), (0.18, -0.18), (0.18, 0.18), (0.04, 0.16)), fill=_GLASS)
        self.pen.polygon(place((-0.26, -0.15), (-0.16, -0.15), (-0.16, 0.15), (-0.26, 0.15)), fill=_GLASS)
        for side in (-1, 1):
            lamp = place((0.31, 0.07 * side), (0.37, 0.07 * side), (0.37, 0.16 * side), (0.31, 0.16 * side))
            self.pen.polygon(lamp, fill=_HEADLIGHT)
            if car.braked:
                lamp = place((-0.42, 0.05 * side), (-0.33, 0.05 * side), (-0.33, 0.2 * side), (-0.42, 0.2 * side))
                self.pen.polygon(lamp, fill=_BRAKE_LIGHT)

    def draw_crash(self, cell: Cell) -> None:
        x, y = self.centre(cell)
        for radius, inner, colour in ((0.62, 0.36, (255, 120, 30, 190)), (0.38, 0.2, (255, 230, 90, 235))):
            points = []
            for spike in range(24):
                reach = (radius if spike % 2 == 0 else inner) * self.cell * (1.0 if spike % 4 else 1.15)
                angle = math.tau * spike / 24
                points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
            self.pen.polygon(points, fill=colour)

    def _place(self, cell: Cell, heading: Cell, shape: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """Points (ahead, to the right) in cells, turned and moved to where they belong."""
        x, y = self.centre(cell)
        down, right = heading
        return [(x + self.cell * (a * right - b * down), y + self.cell * (a * down + b * right)) for a, b in shape]

    def finish(self, *words: str) -> np.ndarray:
        side = _SIDE * _OVERSAMPLE
        self.pen.rectangle([0, side, side, side + _BAR * _OVERSAMPLE], fill=_STRIP)
        font = ImageFont.load_default(size=20 * _OVERSAMPLE)
        middle = side + _BAR * _OVERSAMPLE / 2
        alarm = not words[-1].startswith("no")
        for index, word in enumerate(words):
            anchor, x = (("lm", 14 * _OVERSAMPLE), ("mm", side / 2), ("rm", side - 14 * _OVERSAMPLE))[index]
            colour = _ALARM if alarm and index == len(words) - 1 else _INK
            self.pen.text((x, middle), word, fill=colour, font=font, anchor=anchor)
        small = self.image.resize((_SIDE, _SIDE + _BAR), Image.Resampling.LANCZOS)
        return np.asarray(small, np.uint8)


def _opposite(heading: Cell) -> Cell:
    return -heading[0], -heading[1]


def _paint(slot: int) -> tuple[int, int, int]:
    return _PAINTS[slot % len(_PAINTS)]
