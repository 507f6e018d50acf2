"""From a drawing to pixels: how much of each pixel every tone of an object covers."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from sparc_pretrain.data.scenes.drawings import DRAWINGS, turn

CATEGORIES: tuple[str, ...] = tuple(DRAWINGS)
TONES: tuple[str, ...] = ("base", "light", "dark", "outline")
SUPERSAMPLE = 4
_SHIFT = 4  # fractional bits of the coordinates given to cv2


@cache
def _vertices(name: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """All points of a drawing in one array, and where each polygon ends."""
    polygons = [p for part in DRAWINGS[name] for p in part.polygons]
    return np.concatenate(polygons), tuple(np.cumsum([len(p) for p in polygons]).tolist())


def draw_shape(
    name: str, extent: float, degrees: float, flip: bool, outline: float, margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one object.

    `extent` is the longer side in pixels without the outline, `outline` the line's width in pixels,
    `margin` the empty pixels left on each side. Returns the share of every pixel that each of
    `TONES` covers, [h,w,4] float32 in [0,1], and their sum [h,w]. KeyError for an unknown category.
    """
    points, ends = _vertices(name)
    points = turn(points * ((-1.0, 1.0) if flip else (1.0, 1.0)), degrees)
    low, high = points.min(0), points.max(0)
    scale = extent / (high - low).max()
    border = margin + int(np.ceil(outline)) + 1
    width, height = (np.ceil((high - low) * scale).astype(int) + 2 * border).tolist()
    to_fixed = SUPERSAMPLE * (1 << _SHIFT)
    points = np.round(((points - low) * scale + border) * to_fixed).astype(np.int32)

    canvas = np.zeros((height * SUPERSAMPLE, width * SUPERSAMPLE, len(TONES)), np.uint8)
    rim = 2 * outline * SUPERSAMPLE
    edge = _ink("outline")
    outlines = iter(zip((0, *ends), ends, strict=False))
    for tone, polygons, line in DRAWINGS[name]:
        drawn = [points[slice(*next(outlines))] for _ in polygons]
        thick = line * scale * SUPERSAMPLE
        # every rim first, so that polygons of one part melt into one silhouette
        cv2.polylines(canvas, drawn, not line, edge, max(1, round(thick + rim)), shift=_SHIFT)
        if line:
            cv2.polylines(canvas, drawn, False, _ink(tone), max(1, round(thick)), shift=_SHIFT)
        else:
            for polygon in drawn:
                cv2.fillPoly(canvas, [polygon], _ink(tone), shift=_SHIFT)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    cover = small.astype(np.float32) * np.float32(1 / 255)
    return cover, cv2.transform(cover, np.ones((1, len(TONES)), np.float32))


@cache
def _ink(tone: str) -> tuple[int, ...]:
    """The value of a pixel that `tone` covers; a hole is none of the tones."""
    return tuple(255 * (t == tone) for t in TONES)
