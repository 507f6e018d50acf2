"""What the categories of the easier scenes have of their own: a pattern and an accent colour."""

from __future__ import annotations

import colorsys

import numpy as np

TYPICAL = "typical"  # the texture of an object that has its category's own pattern


def typical_pattern(
    category: int, height: int, width: int, period: float, phase: float
) -> np.ndarray:
    """How much of the accent each pixel of a category's own pattern has: [height,width] float32.

    Twelve patterns about the object's middle: bars of four directions and two more widths, dots,
    checks, rings, waves, a grid and none; categories twelve apart share one, not its accent.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x, step = y - height / 2, x - width / 2, np.float32(2 * np.pi / period)

    def bars(along: np.ndarray) -> np.ndarray:
        return np.sin(along * step + phase)

    match category % 12:
        case 0:
            wave = bars(y)
        case 1:
            wave = bars(x)
        case 2:
            wave = bars((x + y) * 0.71)
        case 3:
            wave = bars((x - y) * 0.71)
        case 4:
            wave = np.cos(x * step * 0.8 + phase) + np.cos(y * step * 0.8 + phase) - 0.75
        case 5:
            wave = 2 * bars(x * 0.7) * bars(y * 0.7)
        case 6:
            wave = bars(np.hypot(x, y))
        case 7:
            wave = bars(y + period * 0.35 * np.sin(x * step * 0.6))
        case 8:
            wave = np.full((height, width), -9.0)
        case 9:
            wave = bars(y * 0.45)
        case 10:
            wave = bars(x * 0.45)
        case _:
            wave = np.maximum(bars(x * 0.8), bars(y * 0.8)) - 0.7
    return np.clip(0.5 + period / 5 * wave, 0, 1).astype(np.float32)


def accent(category: int) -> np.ndarray:
    """The colour [3] of a category's own pattern and parts: twelve hues round the circle, light and
    dark in turn, and the other way round for the next twelve.
    """
    light = (category + category // 12) % 2 == 1
    hue = category % 12 / 12
    rgb = colorsys.hsv_to_rgb(hue, 0.85 if light else 1.0, 0.95 if light else 0.6)
    return np.array(rgb, np.float32) * 255
