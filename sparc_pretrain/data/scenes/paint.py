"""The paint of the built-in scenes: colours, textures and backgrounds, light and shadow.

Pictures are float32 [H,W,3], RGB in 0..255, until the scene is finished; lengths scale with the
frame.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from sparc_pretrain.data.scenes.typical import TYPICAL, accent, typical_pattern

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (212, 44, 50),
    "orange": (242, 132, 34),
    "yellow": (252, 212, 62),
    "green": (58, 156, 78),
    "blue": (48, 102, 212),
    "purple": (128, 70, 178),
    "pink": (246, 142, 182),
    "brown": (132, 84, 50),
    "white": (250, 248, 242),
    "black": (40, 40, 48),
}
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted", "checkered", "wavy")
_CREAM = np.array([255, 250, 236], np.float32)


def _mix(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return a + share * (b - a)


def pattern(texture: str, height: int, width: int, period: float, phase: float) -> np.ndarray:
    """How much of the second colour each pixel has: [height,width] float32 in [0,1].

    Args: period, phase: of the texture, in pixels and radians. Raises KeyError for an unknown one.
    """
    y = np.arange(height, dtype=np.float32)[:, None] * (2 * np.pi / period) + phase
    x = np.arange(width, dtype=np.float32)[None] * (2 * np.pi / period) + phase
    edge = period / 4  # about one pixel of transition
    match texture:
        case "plain":
            return np.zeros((height, width), np.float32)
        case "striped":
            wave = np.sin((x + y) * 0.75)
        case "dotted":
            wave = np.cos(x) + np.cos(y) - 0.75
        case "checkered":
            wave = np.sin(x * 0.7) * np.sin(y * 0.7) * 2
        case "wavy":
            wave = np.sin(y + 1.5 * np.sin(x * 0.6))
        case _:
            raise KeyError(f"unknown texture {texture!r}, one of {TEXTURES}")
    return np.clip(0.5 + edge * wave, 0, 1).astype(np.float32)


def _tones(colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texture's second colour [3], and base, light, dark and outline [4,3].

    Black and white lean to their own side, so that a texture does not make both of them grey.
    """
    bright = float(colour @ np.array([0.3, 0.59, 0.11], np.float32))
    if bright < 60:
        shares = (0.42, 0.5, 0.2, 0.38)
        second, light, dark, outline = (_mix(colour, _CREAM, share) for share in shares)
    else:
        light = _mix(colour, _CREAM, 0.72) if bright < 220 else np.array([168, 196, 222])
        dark, outline = colour * 0.6, colour * 0.34
        second = dark if bright > 170 else _mix(colour, _CREAM, 0.66)
        second = colour * 0.7 if bright > 220 else second
    return second, np.stack([colour, light, dark, outline]).astype(np.float32)


def paint_object(
    picture: np.ndarray,
    cover: np.ndarray,
    alpha: np.ndarray,
    corner: tuple[int, int],
    colour: np.ndarray,
    texture: str,
    period: float,
    phase: float,
    category: int | None = None,
) -> None:
    """Paints an object, and its shadow first, onto `picture` in place.

    `cover` and `alpha` are what `draw_shape` gives, `corner` is the (x,y) of their first pixel,
    `colour` float32 RGB [3]. The picture must hold the whole of `cover`. `category`: the one whose
    accent the second colour and the parts have, and whose pattern the texture TYPICAL means.
    """
    height, width = alpha.shape
    unit = (picture.shape[0] + picture.shape[1]) / 256  # one pixel of a 128-pixel frame
    view = picture[corner[1] : corner[1] + height, corner[0] : corner[0] + width]
    soft = cv2.GaussianBlur(alpha, (0, 0), 1.8 * unit)

    second, tones = _tones(colour)
    if category is not None:
        second = accent(category)
        tones[1:3] = second, second * np.float32(0.6)
    ink = cv2.transform(cover, tones.T)
    if texture != "plain":
        if texture == TYPICAL:
            drawn = typical_pattern(category, height, width, period, phase)
        else:
            drawn = pattern(texture, height, width, period, phase)
        share = cover[..., 0] * drawn
        ink += cv2.merge([share * d for d in second - colour])

    # light from the upper left: the slope of the blurred silhouette makes the object look rounded
    shift = max(1, round(2 * unit))
    light = np.empty_like(soft)
    light[:] = 1.06 - 0.12 / height * np.arange(height, dtype=np.float32)[:, None]
    light[shift:-shift, shift:-shift] += 0.3 * (
        soft[2 * shift :, 2 * shift :] - soft[: -2 * shift, : -2 * shift]
    )
    behind = 1 - alpha
    behind[shift:, shift // 2 :] *= 1 - 0.5 * soft[:-shift, : width - shift // 2]
    view *= cv2.merge([behind] * 3)
    view += ink * cv2.merge([light] * 3)


def _smooth(rng: np.random.Generator, size: int, down: int, across: int) -> np.ndarray:
    """Soft noise, about [0,1], with some `down` x `across` bumps."""
    coarse = rng.random((down + 2, across + 2), np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _grain(rng: np.random.Generator, size: int, strength: float) -> np.ndarray:
    return np.float32(strength) * (rng.random((size, size), np.float32) - np.float32(0.5))


def _blend(share: np.ndarray, first: RGB, second: RGB, grain: np.ndarray | float = 0) -> np.ndarray:
    """From `first` (share 0) to `second` (share 1), plus a grey `grain`. [H,W,3]"""
    return cv2.merge([share * (b - a) + (grain + a) for a, b in zip(first, second, strict=True)])


def _cover(picture: np.ndarray, share: np.ndarray, colour: RGB) -> np.ndarray:
    """`picture` painted over with `colour` where `share` is 1."""
    rest = cv2.merge([1 - share] * 3)
    return picture * rest + cv2.merge([share * c for c in colour])


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Row [1,S] and column [S,1] of pixel centres in frame units, 0..1."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return line[None], line[:, None]


def _cells(line: np.ndarray, offset: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of the cell each position lies in, and the place in it, 0..1."""
    moved = (line + offset).astype(np.float32)
    cell = np.floor(moved)
    return cell.astype(np.int32), moved - cell


def _joint(inside: np.ndarray, count: float, width: float, size: int) -> np.ndarray:
    """How much of a joint, `width` of the frame, covers each position of a cell."""
    return np.clip((width - np.minimum(inside, 1 - inside) / count) * size + 0.5, 0, 1)


def _grass(size: int, rng: np.random.Generator) -> np.ndarray:
    ground = _blend(_smooth(rng, size, 5, 5), (74, 128, 52), (112, 164, 70), _grain(rng, size, 22))
    ground = np.clip(ground, 0, 255).astype(np.uint8)
    for tone in ((62, 112, 44), (134, 186, 82), (98, 154, 60), (160, 206, 100)):
        root = rng.random((80, 1, 2))
        tip = root + (rng.random((80, 1, 2)) - 0.5) * (0.05, 0) - (0, 0.055)
        blades = np.round(np.concatenate([root, tip], 1) * size * 16).astype(np.int32)
        cv2.polylines(ground, list(blades), False, tone, max(1, round(size / 160)), cv2.LINE_AA, 4)
    return ground.astype(np.float32)


def _sand(size: int, rng: np.random.Generator) -> np.ndarray:
    x, y = _grid(size)
    dune = y * np.float32(50) + x * np.float32(rng.uniform(-12, 12)) + 10 * _smooth(rng, size, 3, 3)
    share = 0.5 + np.sin(dune) * (0.14 + 0.21 * _smooth(rng, size, 3, 3))
    return _blend(share, (206, 172, 116), (240, 214, 164), _grain(rng, size, 34))


def _water(size: int, rng: np.random.Generator) -> np.ndarray:
    _, y = _grid(size)
    crest = np.maximum(np.sin(y * 69 + 11.3 * _smooth(rng, size, 6, 4)), 0)
    crest *= crest * crest * _smooth(rng, size, 9, 5)
    deep = 0.65 * y + 0.35 * _smooth(rng, size, 3, 3)
    picture = _blend(deep, (66, 158, 198), (24, 92, 156), _grain(rng, size, 8))
    return picture + cv2.merge([crest * 125, crest * 105, crest * 72])


def _brick(size: int, rng: np.random.Generator) -> np.ndarray:
    rows, columns = 9, 4.5
    x, y = _grid(size)
    row, v = _cells(y * rows, rng.random())
    column, u = _cells(x * columns, 0.5 * (row % 2) + rng.random())
    tone = rng.random((rows + 2, 8), np.float32)[row, column]
    picture = _blend(tone, (150, 70, 54), (190, 100, 76), _grain(rng, size, 24))
    mortar = np.maximum(_joint(u, columns, 0.009, size), _joint(v, rows, 0.009, size))
    return _cover(picture, mortar, (206, 196, 182))


def _night_sky(size: int, rng: np.random.Generator) -> np.ndarray:
    _, y = _grid(size)
    haze = _smooth(rng, size, 3, 3) * _smooth(rng, size, 5, 5)
    sky = _blend(np.float32(0.7) * y + haze, (10, 14, 44), (54, 46, 110), _grain(rng, size, 5))
    sky = np.clip(sky, 0, 255).astype(np.uint8)
    for x, h, glow in rng.random((64, 3)).tolist():
        light = (150 + 105 * glow, 150 + 100 * glow, 130 + 95 * glow)
        radius = int((0.25 + 0.75 * glow**4) * size / 8)
        cv2.circle(sky, (int(x * size * 16), int(h * size * 16)), radius, light, -1, cv2.LINE_AA, 4)
    return sky.astype(np.float32)


def _wood(size: int, rng: np.random.Generator) -> np.ndarray:
    planks = 5
    _, y = _grid(size)
    plank, v = _cells(y * planks, rng.random())
    rings = np.sin(v * np.float32(12.6) + 15.7 * _smooth(rng, size, 10, 2))
    tone = 0.5 * rng.random(planks + 2, np.float32)[plank]
    share = tone + 0.2 * rings + 0.35 * _smooth(rng, size, 48, 3)
    picture = _blend(share - 0.03, (122, 80, 46), (188, 138, 88), _grain(rng, size, 8))
    return picture * (1 - 0.6 * _joint(v, planks, 0.008, size))[..., None]


def _snow(size: int, rng: np.random.Generator) -> np.ndarray:
    drift = 0.65 * _smooth(rng, size, 3, 2) + 0.35 * _smooth(rng, size, 8, 5)
    glitter = rng.random((size, size), np.float32)
    glitter = 8 * glitter + 26 * (glitter > 0.985)
    return _blend(drift, (184, 202, 228), (246, 249, 253), glitter)


def _tiles(size: int, rng: np.random.Generator) -> np.ndarray:
    count = 5
    x, y = _grid(size)
    (column, u), (row, v) = _cells(x * count, rng.random()), _cells(y * count, rng.random())
    tone = rng.random((count + 2, count + 2), np.float32)[row, column]
    glaze = 14 * (1 - u - v)  # each tile catches the light in its corner
    picture = _blend(tone, (120, 160, 160), (158, 192, 188), glaze + _grain(rng, size, 10))
    grout = np.maximum(_joint(u, count, 0.009, size), _joint(v, count, 0.009, size))
    return _cover(picture, grout, (226, 226, 218))


_PAINTERS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "brick": _brick,
    "night sky": _night_sky,
    "wood": _wood,
    "snow": _snow,
    "tiles": _tiles,
}
BACKGROUNDS: tuple[str, ...] = tuple(_PAINTERS)


def paint_background(name: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square background, [size,size,3] float32, lit from one side. KeyError if unknown."""
    picture = _PAINTERS[name](size, rng)
    x, y = _grid(size)
    a, b = rng.uniform(-0.12, 0.12, 2).astype(np.float32)
    light = 1 + a * (x - 0.5) + b * (y - 0.5)
    tint = rng.uniform(0.95, 1.05, 3).astype(np.float32)
    return picture * cv2.merge([light * t for t in tint])
