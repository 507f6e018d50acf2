"""The drawings of the built-in scenes: each category as polygons and thick lines.

A drawing is a tuple of parts, painted in order; unit coordinates, x to the right, y down, about
[-1,1]. A category is told by its shape alone: its colour, texture and size are drawn separately.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Points = np.ndarray


class Part(NamedTuple):
    """Polygons of one tone ("hole" erases); `width` > 0 makes them open lines that thick."""

    tone: str
    polygons: tuple[Points, ...]
    width: float = 0.0


def _part(tone: str, *polygons: Points | list, width: float = 0.0) -> Part:
    return Part(tone, tuple(np.asarray(p, float) for p in polygons), width)


def _arc(
    x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360
) -> Points:
    angle = np.radians(np.linspace(start, stop, 41))
    return np.stack([x + rx * np.cos(angle), y + (ry or rx) * np.sin(angle)], axis=1)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def _closed(half: list[tuple[float, float]]) -> Points:
    """A right half, listed from top to bottom, and its mirror image as one polygon."""
    return np.array(half + [(-x, y) for x, y in reversed(half)], float)


def _both(*polygons: Points | list) -> list[Points]:
    """Each polygon, and its mirror image."""
    return [np.asarray(p, float) * (side, 1) for p in polygons for side in (1, -1)]


def _polar(radius: Callable[[Points], Points], count: int = 96) -> Points:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False) - np.pi / 2
    return radius(angle)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def turn(points: Points | list, degrees: float) -> Points:
    """`points` [N,2] turned clockwise on the screen about the origin."""
    a = np.radians(degrees)
    return np.asarray(points) @ np.array([(np.cos(a), np.sin(a)), (-np.sin(a), np.cos(a))])


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 16


_STAR = _polar(lambda a: np.tile([1.0, 0.45], 5), 10)
_HEXAGON = turn(_polar(np.ones_like, 6), 30)
_GEAR = _polar(lambda a: np.where(np.cos(8 * a) > 0, 1.0, 0.74), 192)
_FLOWER = _polar(lambda a: 0.74 + 0.26 * np.cos(6 * (a + np.pi / 2)))
_CAR = [(-1, 0.38), (-1, 0.02), (-0.62, -0.1), (-0.36, -0.55), (0.36, -0.55), (0.64, -0.1)]
_CAR += [(1, 0.05), (1, 0.38)]
_TREE = [(0, -1), (0.46, -0.42), (0.26, -0.42), (0.68, 0.1), (0.4, 0.1), (0.88, 0.62)]
_MOON = [*_arc(0, 0, 1, start=60, stop=300), *_arc(0.62, 0, 0.87, start=262, stop=98)]
_CAP = [*_arc(0, 0.12, 1, 0.95, 180, 360), *_arc(0, 0.12, 1, 0.18, 0, 180)]
_ARROW = [(-1, -0.28), (0.1, -0.28), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.28), (-1, 0.28)]
_CANOPY = list(_arc(0, 0.1, 1, 1, 180, 360))
_CANOPY += [p for x in (0.75, 0.25, -0.25, -0.75) for p in _arc(x, 0.1, 0.25, 0.16, 0, -180)]
_BELL = [(0.14, -0.86), (0.4, -0.72), (0.54, -0.4), (0.58, 0.1), (0.7, 0.36), (0.92, 0.58)]
_LOWER_WING = turn(_arc(0, 0, 0.34, 0.46), -35) + np.array((0.52, 0.42))
_UPPER_WING = turn(_arc(0, 0, 0.36, 0.58), 50) + np.array((0.55, -0.2))
_LEAF = [*_arc(-0.75, 0, 1.25, start=-53, stop=53), *_arc(0.75, 0, 1.25, start=127, stop=233)]
_ROCKET = [(0, -1.1), (0.24, -0.75), (0.38, -0.3), (0.38, 0.25), (0.24, 0.72)]
_CROWN = [(-0.85, 0.65), (-1, -0.45), (-0.5, 0.08), (0, -0.75), (0.5, 0.08), (1, -0.45)]
_CROWN += [(0.85, 0.65)]
_DROP = [(0, -1), *_arc(0, 0.35, 0.62, start=-28, stop=208)]
_GEM = [(-0.58, -0.7), (0.58, -0.7), (1, -0.22), (0, 0.9), (-1, -0.22)]
_FACETS = [(-0.36, -0.22), (0, 0.9), (0.36, -0.22), (0, -0.7), (-0.36, -0.22)]
_BOLT = [(0.25, -1), (-0.62, 0.15), (-0.08, 0.15), (-0.35, 1), (0.62, -0.28), (0.08, -0.28)]
_BOLT += [(0.55, -1)]
_CROSS = [(0.34, -1), (0.34, -0.34), (1, -0.34), (1, 0.34), (0.34, 0.34), (0.34, 1)]
_GHOST = [*_arc(0, -0.2, 0.75, 0.8, 180, 360), (0.75, 0.95), (0.38, 0.65), (0, 0.95)]
_GHOST += [(-0.38, 0.65), (-0.75, 0.95)]
_TRUNK = [(0, -0.8), (0, 0.5)]
_ARMS = [[(0, 0.15), (-0.62, 0.15), (-0.62, -0.3)], [(0, -0.05), (0.62, -0.05), (0.62, -0.5)]]
_WHISKERS = [[(0.35, 0.4), (0.98, 0.3)], [(0.35, 0.5), (0.98, 0.6)]]

# The order is the rank: the first category is the most frequent one, the last the rarest.
DRAWINGS: dict[str, tuple[Part, ...]] = {
    "star": (_part("base", _STAR),),
    "house": (
        _part("dark", _box(0.38, -0.85, 0.62, -0.3)),
        _part("base", _box(-0.74, -0.15, 0.74, 0.9)),
        _part("base", [(-1, -0.1), (0, -0.95), (1, -0.1)]),
        _part("dark", _box(-0.5, 0.3, -0.1, 0.9)),
        _part("light", _box(0.14, 0.2, 0.5, 0.55)),
    ),
    "car": (
        _part("base", _CAR),
        _part("light", [(-0.42, -0.12), (-0.28, -0.42), (0.28, -0.42), (0.44, -0.12)]),
        _part("dark", *_both(_arc(0.52, 0.38, 0.25))),
        _part("light", *_both(_arc(0.52, 0.38, 0.07))),
    ),
    "tree": (_part("dark", _box(-0.16, 0.6, 0.16, 1.05)), _part("base", _closed(_TREE))),
    "heart": (_part("base", _heart()),),
    "fish": (
        _part("dark", [(0.3, 0), (1, -0.5), (0.86, 0), (1, 0.5)]),
        _part("dark", [(-0.35, -0.4), (0.1, -0.72), (0.25, -0.3)]),
        _part("base", _arc(-0.25, 0, 0.75, 0.5)),
        _part("light", _arc(-0.62, -0.12, 0.1)),
    ),
    "circle": (_part("base", _arc(0, 0, 1)),),
    "gear": (_part("base", _GEAR), _part("hole", _arc(0, 0, 0.3))),
    "flower": (_part("base", _FLOWER), _part("light", _arc(0, 0, 0.27))),
    "boat": (
        _part("dark", [(0, -0.95), (0, 0.4)], width=0.1),
        _part("light", [(-0.1, -0.7), (-0.1, 0.2), (-0.72, 0.2)]),
        _part("base", [(0.1, -0.95), (0.1, 0.2), (0.9, 0.2)]),
        _part("base", [(-1, 0.36), (1, 0.36), (0.62, 0.9), (-0.62, 0.9)]),
    ),
    "triangle": (_part("base", [(0, -0.9), (1, 0.8), (-1, 0.8)]),),
    "cup": (
        _part("dark", _arc(0.5, 0.02, 0.36, 0.34, -100, 100), width=0.16),
        _part("base", [(-0.8, -0.62), (0.5, -0.62), (0.36, 0.75), (-0.66, 0.75)]),
        _part("light", _arc(-0.15, -0.62, 0.65, 0.16)),
    ),
    "moon": (_part("base", _MOON),),
    "mushroom": (
        _part("light", [(-0.24, 0), (0.24, 0), (0.34, 0.9), (-0.34, 0.9)]),
        _part("base", _CAP),
    ),
    "arrow": (_part("base", _ARROW),),
    "umbrella": (
        _part("dark", [(0, -1), (0, 0.78), *_arc(0.2, 0.78, 0.2, 0.2, 180, 20)], width=0.13),
        _part("base", _CANOPY),
    ),
    "square": (_part("base", _box(-1, -1, 1, 1)),),
    "cloud": (
        _part(
            "base",
            _arc(-0.6, 0.18, 0.36),
            _arc(-0.12, -0.16, 0.5),
            _arc(0.42, 0.02, 0.42),
            _arc(0.72, 0.28, 0.26),
            _box(-0.6, 0.1, 0.72, 0.54),
        ),
    ),
    "key": (
        _part(
            "base",
            [(-0.5, 0), (1, 0)],
            [(0.6, 0), (0.6, 0.36)],
            [(0.9, 0), (0.9, 0.36)],
            width=0.24,
        ),
        _part("base", _arc(-0.58, 0, 0.46)),
        _part("hole", _arc(-0.62, 0, 0.2)),
    ),
    "bell": (
        _part("dark", _arc(0, 0.68, 0.22)),
        _part("dark", _arc(0, -0.88, 0.15)),
        _part("base", _closed(_BELL)),
    ),
    "butterfly": (
        _part("dark", *_both([(0, -0.35), (0.3, -0.85)]), width=0.07),
        _part("base", *_both(_LOWER_WING)),
        _part("base", *_both(_UPPER_WING)),
        _part("dark", _arc(0, 0.08, 0.12, 0.6)),
    ),
    "leaf": (
        _part("dark", turn([(0, 0.7), (0, 1.35)], 40), width=0.12),
        _part("base", turn(_LEAF, 40)),
        _part("dark", turn([(0, -0.6), (0, 0.9)], 40), width=0.04),
    ),
    "rocket": (
        _part("light", [(-0.2, 0.6), (0.2, 0.6), (0, 1.1)]),
        _part("dark", [(-0.3, 0), (-0.72, 0.75), (0.72, 0.75), (0.3, 0)]),
        _part("base", _closed(_ROCKET)),
        _part("light", _arc(0, -0.3, 0.16)),
    ),
    "hexagon": (_part("base", _HEXAGON),),
    "crown": (
        _part("base", _CROWN),
        _part("dark", _box(-0.87, 0.42, 0.87, 0.72)),
        _part("light", _arc(-1, -0.5, 0.12), _arc(0, -0.8, 0.12), _arc(1, -0.5, 0.12)),
    ),
    "drop": (_part("base", _DROP),),
    "ring": (_part("base", _arc(0, 0, 1)), _part("hole", _arc(0, 0, 0.56))),
    "diamond": (
        _part("base", _GEM),
        _part("dark", [(-1, -0.22), (1, -0.22)], _FACETS, width=0.03),
    ),
    "snowman": (
        _part("dark", *_both([(0.4, -0.1), (0.85, -0.42)]), width=0.07),
        _part("base", _arc(0, 0.52, 0.56)),
        _part("base", _arc(0, -0.28, 0.4)),
        _part("dark", *_both(_arc(0.13, -0.34, 0.05))),
        _part("dark", _box(-0.42, -0.68, 0.42, -0.58), _box(-0.26, -1.05, 0.26, -0.6)),
    ),
    "bolt": (_part("base", _BOLT),),
    "cactus": (
        _part("base", _TRUNK, width=0.44),
        _part("base", *_ARMS, width=0.26),
        _part("base", _TRUNK, width=0.36),
        _part("dark", [(-0.52, 0.5), (0.52, 0.5), (0.4, 1.05), (-0.4, 1.05)]),
    ),
    "cat": (
        _part("base", *_both([(0.88, 0), (0.8, -0.95), (0.2, -0.5)]), _arc(0, 0.1, 0.9, 0.75)),
        _part("dark", *_both(_arc(0.36, 0, 0.1, 0.15)), [(-0.12, 0.28), (0.12, 0.28), (0, 0.42)]),
        _part("dark", *_both(*_WHISKERS), width=0.03),
    ),
    "anchor": (
        _part("base", [(0, -0.5), (0, 0.85)], [(-0.45, -0.3), (0.45, -0.3)], width=0.22),
        _part("base", _arc(0, 0.05, 0.8, 0.8, 20, 160), width=0.22),
        _part("base", *_both([(1.02, 0.42), (0.72, -0.05), (0.5, 0.45)])),
        _part("base", [(0, 0), (0, 0.75)], width=0.2),
        _part("base", _arc(0, -0.75, 0.28)),
        _part("hole", _arc(0, -0.75, 0.12)),
    ),
    "cross": (_part("base", _closed(_CROSS)),),
    "ghost": (
        _part("base", _GHOST),
        _part("dark", *_both(_arc(0.27, -0.25, 0.12, 0.17))),
    ),
    "bottle": (
        _part("base", _closed([(0.2, -0.8), (0.2, -0.42), (0.46, -0.12), (0.46, 1)])),
        _part("dark", _box(-0.24, -1.02, 0.24, -0.78)),
        _part("light", _box(-0.46, 0.2, 0.46, 0.66)),
    ),
}
