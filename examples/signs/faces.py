"""The faces of the road signs, drawn with vector primitives: no fonts and no pictures, so the same on every machine.

A face is drawn in units: x to the right and y down, both from -1 to 1, the sign touching that square. Its colours and
proportions are those that drivers in Europe expect; the drawings are our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

RED: Colour = (190, 22, 34)
BLUE: Colour = (16, 80, 160)
YELLOW: Colour = (246, 188, 20)
WHITE: Colour = (244, 244, 240)
BLACK: Colour = (22, 22, 24)
GREY: Colour = (120, 122, 124)

# Drawn this much larger than asked for and averaged down: Pillow's primitives have hard edges.
SUPERSAMPLING = 4


class Pen:
    """Draws in units on a transparent square of ``side`` pixels."""

    def __init__(self, side: int) -> None:
        self.picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.picture)
        # A margin of 2 % keeps the averaged edge inside the picture.
        self._unit = side / 2 * 0.98
        self._centre = side / 2

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(self._centre + x * self._unit, self._centre + y * self._unit) for x, y in points]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=(*colour, 255))

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        (x, y), r = centre, radius
        self._draw.ellipse([*self._pixels([(x - r, y - r)])[0], *self._pixels([(x + r, y + r)])[0]], fill=(*colour, 255))

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line with round ends and joints."""
        self._draw.line(self._pixels(points), fill=(*colour, 255), width=round(width * self._unit))
        for joint in points:
            self.disc(joint, width / 2, colour)

    def rounded(self, points: Sequence[Point], radius: float, colour: Colour) -> None:
        """A polygon grown by ``radius`` with round corners."""
        self.polygon(points, colour)
        self.stroke([*points, points[0]], 2 * radius, colour)


def _arc(centre: Point, radii: Point, start_deg: float, end_deg: float, steps: int = 32) -> list[Point]:
    angles = (math.radians(start_deg + (end_deg - start_deg) * i / steps) for i in range(steps + 1))
    return [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]


def _regular(corners: int, radius: float, first_deg: float) -> list[Point]:
    return _arc((0, 0), (radius, radius), first_deg, first_deg + 360, corners)[:-1]


# Letters and digits as strokes in a box from (0, 0) to (1, 2).
_GLYPHS: dict[str, list[list[Point]]] = {
    "0": [_arc((0.5, 1), (0.5, 1), 0, 360)],
    "3": [_arc((0.45, 0.5), (0.5, 0.5), 200, 450), _arc((0.45, 1.5), (0.55, 0.5), 270, 520)],
    "5": [[(0.92, 0), (0.14, 0), (0.06, 0.9)], _arc((0.44, 1.35), (0.56, 0.65), 222, 505)],
    "8": [_arc((0.5, 0.48), (0.42, 0.48), 0, 360), _arc((0.5, 1.48), (0.52, 0.52), 0, 360)],
    "S": [[*_arc((0.5, 0.5), (0.48, 0.5), 330, 90), *_arc((0.5, 1.5), (0.48, 0.5), 270, 510)]],
    "T": [[(0, 0), (1, 0)], [(0.5, 0), (0.5, 2)]],
    "O": [_arc((0.5, 1), (0.5, 1), 0, 360)],
    "P": [[(0.05, 2), (0.05, 0), (0.5, 0), *_arc((0.5, 0.5), (0.48, 0.5), 270, 450), (0.05, 1.0)]],
}


def _write(pen: Pen, text: str, glyph_size: Point, line: float, colour: Colour) -> None:
    """Centre ``text`` on the face; ``glyph_size`` is one glyph's width and height, ``line`` the strokes' width."""
    width, height = glyph_size
    gap = line * 1.55
    left = -(len(text) * width + (len(text) - 1) * gap) / 2
    for glyph in text:
        for points in _GLYPHS[glyph]:
            pen.stroke([(left + x * width, (y / 2 - 0.5) * height) for x, y in points], line, colour)
        left += width + gap


def _stop(pen: Pen) -> None:
    pen.polygon(_regular(8, 1.06, 22.5), WHITE)
    pen.polygon(_regular(8, 0.98, 22.5), RED)
    _write(pen, "STOP", (0.22, 0.56), 0.105, WHITE)


def _yield(pen: Pen) -> None:
    pen.rounded([(-0.86, -0.72), (0.86, -0.72), (0, 0.78)], 0.12, RED)
    pen.rounded([(-0.52, -0.5), (0.52, -0.5), (0, 0.39)], 0.03, WHITE)


def _no_entry(pen: Pen) -> None:
    pen.disc((0, 0), 1, WHITE)
    pen.disc((0, 0), 0.95, RED)
    pen.polygon([(-0.68, -0.18), (0.68, -0.18), (0.68, 0.18), (-0.68, 0.18)], WHITE)


def _priority_road(pen: Pen) -> None:
    pen.rounded(_regular(4, 0.93, 0), 0.05, WHITE)
    pen.rounded(_regular(4, 0.58, 0), 0.04, YELLOW)


def _prohibition(pen: Pen) -> None:
    pen.disc((0, 0), 1, RED)
    pen.disc((0, 0), 0.76, WHITE)


def _speed(pen: Pen, digits: str) -> None:
    _prohibition(pen)
    _write(pen, digits, (0.3, 0.68), 0.135, BLACK)


def _car(pen: Pen, x: float, colour: Colour) -> None:
    pen.rounded([(x - 0.2, 0.05), (x + 0.2, 0.05), (x + 0.2, 0.17), (x - 0.2, 0.17)], 0.04, colour)
    pen.polygon([(x - 0.17, 0.04), (x - 0.11, -0.2), (x + 0.11, -0.2), (x + 0.17, 0.04)], colour)
    pen.polygon([(x - 0.11, 0.0), (x - 0.07, -0.14), (x + 0.07, -0.14), (x + 0.11, 0.0)], WHITE)
    for wheel in (-0.15, 0.15):
        pen.stroke([(x + wheel, 0.18), (x + wheel, 0.27)], 0.1, colour)


def _no_overtaking(pen: Pen) -> None:
    _prohibition(pen)
    _car(pen, -0.32, RED)
    _car(pen, 0.32, BLACK)


def _arrow_head(pen: Pen, tip: Point, heading_deg: float, size: float) -> None:
    a = math.radians(heading_deg)
    along, across = (math.cos(a), math.sin(a)), (-math.sin(a), math.cos(a))
    back = (tip[0] - along[0] * size, tip[1] - along[1] * size)
    sides = [(back[0] + s * across[0] * size * 0.75, back[1] + s * across[1] * size * 0.75) for s in (1, -1)]
    pen.polygon([tip, *sides], WHITE)


def _mandatory(pen: Pen) -> None:
    pen.disc((0, 0), 1, WHITE)
    pen.disc((0, 0), 0.95, BLUE)


def _turn(pen: Pen, side: int) -> None:
    """``side`` is 1 for right and -1 for left."""
    _mandatory(pen)
    bend = [(-0.25 * side, 0.62), (-0.25 * side, 0.02), (-0.2 * side, -0.14), (-0.05 * side, -0.2), (0.3 * side, -0.2)]
    pen.stroke(bend, 0.2, WHITE)
    _arrow_head(pen, (0.72 * side, -0.2), 0 if side > 0 else 180, 0.44)


def _roundabout(pen: Pen) -> None:
    _mandatory(pen)
    for start in (0, 120, 240):
        arc = _arc((0, 0), (0.52, 0.52), start + 95, start + 22)
        pen.stroke(arc, 0.17, WHITE)
        a = math.radians(start - 8)
        _arrow_head(pen, (0.55 * math.cos(a), 0.55 * math.sin(a)), start - 86, 0.34)


def _warning(pen: Pen) -> None:
    pen.rounded([(-0.86, 0.74), (0.86, 0.74), (0, -0.76)], 0.12, RED)
    pen.rounded([(-0.62, 0.62), (0.62, 0.62), (0, -0.46)], 0.03, WHITE)


def _walker(pen: Pen) -> None:
    pen.disc((0.03, -0.2), 0.095, BLACK)
    pen.stroke([(0.02, -0.04), (-0.02, 0.26)], 0.16, BLACK)
    pen.stroke([(-0.02, 0.28), (0.12, 0.42), (0.17, 0.6)], 0.085, BLACK)
    pen.stroke([(-0.03, 0.28), (-0.1, 0.45), (-0.24, 0.58)], 0.085, BLACK)
    pen.stroke([(0.03, 0.0), (0.17, 0.12), (0.24, 0.06)], 0.065, BLACK)
    pen.stroke([(0.0, 0.0), (-0.14, 0.1), (-0.17, 0.22)], 0.065, BLACK)


def _pedestrians(pen: Pen) -> None:
    _warning(pen)
    _walker(pen)


def _crossing(pen: Pen) -> None:
    pen.rounded([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)], 0.13, WHITE)
    pen.rounded([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)], 0.11, BLUE)
    pen.rounded([(-0.66, 0.66), (0.66, 0.66), (0, -0.56)], 0.03, WHITE)
    _walker(pen)


def _road_works(pen: Pen) -> None:
    _warning(pen)
    pen.disc((0.02, -0.16), 0.085, BLACK)
    pen.stroke([(-0.02, 0.0), (-0.19, 0.24)], 0.14, BLACK)
    pen.stroke([(-0.2, 0.26), (-0.13, 0.44), (-0.2, 0.6)], 0.08, BLACK)
    pen.stroke([(-0.22, 0.26), (-0.32, 0.42), (-0.42, 0.6)], 0.08, BLACK)
    pen.stroke([(0.0, 0.02), (0.1, 0.2), (-0.04, 0.26)], 0.06, BLACK)
    pen.stroke([(-0.06, 0.2), (0.28, 0.4)], 0.05, BLACK)
    pen.polygon([(0.1, 0.64), (0.56, 0.64), (0.42, 0.42), (0.28, 0.4)], BLACK)


def _end_of_limits(pen: Pen) -> None:
    pen.disc((0, 0), 1, GREY)
    pen.disc((0, 0), 0.95, WHITE)
    for offset in (-0.32, -0.16, 0.0, 0.16, 0.32):
        reach = math.sqrt(0.84**2 - offset**2)
        along, across = math.sqrt(0.5), offset * math.sqrt(0.5)
        ends = [(s * reach * along + across, -s * reach * along + across) for s in (-1, 1)]
        pen.stroke(ends, 0.075, BLACK)


# The order is the order of the networks' classes; a new sign goes to the end.
_FACES: dict[str, Callable[[Pen], None]] = {
    "stop": _stop,
    "yield": _yield,
    "no entry": _no_entry,
    "priority road": _priority_road,
    "speed limit 30": partial(_speed, digits="30"),
    "speed limit 50": partial(_speed, digits="50"),
    "speed limit 80": partial(_speed, digits="80"),
    "no overtaking": _no_overtaking,
    "turn right ahead": partial(_turn, side=1),
    "turn left ahead": partial(_turn, side=-1),
    "roundabout": _roundabout,
    "pedestrians": _pedestrians,
    "road works": _road_works,
    "end of limits": _end_of_limits,
    "pedestrian crossing": _crossing,
}
LABELS: tuple[str, ...] = tuple(_FACES)


@lru_cache(maxsize=64)
def face(label: str, side: int) -> Image.Image:
    """The sign ``label`` as an RGBA picture of ``side`` pixels, transparent around it; treat it as read-only.

    Raises KeyError for a label that is not in ``LABELS``.
    """
    pen = Pen(side * SUPERSAMPLING)
    _FACES[label](pen)
    return pen.picture.reduce(SUPERSAMPLING)
