"""Pictures and curves as text inside a page: JPEGs in base64, and SVG drawn by hand."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from sparc_pretrain.data.images import BadImage, decode

BUDGET = 6_500_000  # characters of pictures in a page: it stays below 8 MB
QUALITY = 84
POINTS = 400  # of a curve: more than its pixels
WIDTH, HEIGHT = 430, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 26, 12, 40


def halves(both: Tensor) -> tuple[Tensor, Tensor]:
    """A picture of RecordHook, [3,H,W] -> its truth (left) and prediction (right), [3,H,W/2]."""
    middle = both.shape[-1] // 2
    return both[..., :middle], both[..., middle : 2 * middle]


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two drawings of the truth are of one image: equal but for details of drawing."""
    return a.shape == b.shape and bool((a.float() - b.float()).abs().mean() < 12)


class Album:
    """Turns pictures into `<img>` tags, until the page is full. All files of a page are read here:
    one that a killed process left cut off is told and costs no more than its place.

    Attributes: `used`, characters so far; `left_out`, pictures for which there was no room;
    `damaged`, files that are no pictures or cannot be read.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget, self.used, self.left_out = budget, 0, 0
        self.damaged: list[Path] = []

    def read(self, path: Path) -> Tensor | None:
        """An image file as [3,H,W] uint8; None, and it is among the damaged, where it is none."""
        try:
            return decode(path.read_bytes())
        except (BadImage, OSError):
            self.damaged.append(path)
            return None

    def picture(self, source: Tensor | np.ndarray | Path, alt: str, side: int = 320) -> Markup:
        """An `<img>` of a file, of [3,H,W] or of [H,W,3] uint8, its longer side at most `side`."""
        if isinstance(source, Path):
            read = self.read(source)
            if read is None:
                return absent(f"{alt} (cannot be read)")
            source = read
        if isinstance(source, Tensor):
            source = source.permute(1, 2, 0).contiguous().numpy()
        image = Image.fromarray(source)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
        text = base64.b64encode(file.getvalue()).decode()
        if self.used + len(text) > self.budget:
            self.left_out += 1
            return absent(f"{alt} (no room)")
        self.used += len(text)
        tag = Markup('<img src="data:image/jpeg;base64,{}" alt="{}" width="{}" height="{}">')
        return tag.format(text, alt, *image.size)


def absent(text: str) -> Markup:
    """What stands in the place of a picture."""
    return Markup('<span class="absent">{}</span>').format(text)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: (x, y) points; `style` names its colour and dash in the page's CSS."""

    name: str
    style: str
    points: list[tuple[float, float]]

    @property
    def end(self) -> str:
        """Its last value, in words."""
        x, y = self.points[-1]
        return f"{y:.4g} at step {x:,.0f}"


def chart(title: str, curves: Sequence[Curve]) -> Markup:
    """An SVG line chart with axes and ticks; x is the step, from 0. Values that are not finite are
    gaps; at least one must be finite. `data-told` has what `page/curves.js` shows where one points:
    the frame in pixels and units, and the points of each curve.
    """
    finite = [p for curve in curves for p in curve.points if math.isfinite(p[1])]
    x_low, x_high = 0, max(1, *(x for x, _ in finite))
    x_ticks = [x for x in ticks(x_low, x_high) if x <= x_high]
    y_ticks = ticks(min(y for _, y in finite), max(y for _, y in finite))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for y in y_ticks:
        _, at = place(x_low, y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_tick(y, y_ticks)}</text>'
        )
    for x in x_ticks:
        at, _ = place(x, y_low)
        parts.append(
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" '
            f'y2="{HEIGHT - BOTTOM + 5}"/><text x="{at:.1f}" y="{HEIGHT - BOTTOM + 19}" '
            f'text-anchor="middle">{_tick(x, x_ticks)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" '
        f'y2="{HEIGHT - BOTTOM}"/><text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" '
        'text-anchor="middle">step</text>'
    )
    for curve in curves:
        style = escape(curve.style)
        for piece in _pieces(curve.points):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in piece))
            if len(piece) == 1:
                x, y = place(*piece[0])
                parts.append(f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
            else:
                parts.append(f'<polyline class="curve {style}" points="{path}"/>')
    parts.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/>')
    ends = "; ".join(f"{curve.name}: {curve.end}" for curve in curves)
    told = {
        "x": [LEFT, WIDTH - RIGHT, x_low, x_high],
        "y": [HEIGHT - BOTTOM, TOP, y_low, y_high],
        "curves": [[(x, y) for piece in _pieces(c.points) for x, y in piece] for c in curves],
    }
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(f"{title}. {ends}")}" '
        f'data-told="{escape(json.dumps(told, default=float))}">{"".join(parts)}</svg>'
    )


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that reach from `low` to `high`."""
    if high <= low:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    raw = (high - low) / wanted
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _tick(value: float, among: Sequence[float]) -> str:
    step = among[1] - among[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if 0 < step < 1e-3:
        return f"{value:.0e}".replace("-", "\u2212") if value else "0"
    return f"{value:,.{digits}f}".replace("-", "\u2212")


def _pieces(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Split at values that are not finite; thinned out to what can be seen, the last point kept."""
    every = math.ceil(len(points) / POINTS)
    kept = [p for i, p in enumerate(points) if i % every == 0 or i == len(points) - 1]
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in kept:
        if math.isfinite(point[1]):
            pieces[-1].append((point[0], float(f"{point[1]:.5g}")))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]
