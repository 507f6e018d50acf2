"""The built-in data: rendered scenes with captions, boxes, masks, maps, in standard formats.

    scene = render_scene(seed=0, index=7)           # image, objects, semantic map, five captions
    write_scenes(Path("data/scenes"), 2000, 500)    # COCO, LVIS v1, ADE20K and captions on disk
    contact_sheet(Path("scenes.png"))               # a look at them

A scene of the level `hard` has two to seven objects on one of eight backgrounds. The category is
the shape, and its frequency falls geometrically (a long tail); colour, texture, size, place and
background are independent of it. `easy` and `default` are for trainings of minutes: see `levels`.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

from sparc_pretrain.data.scenes.captions import ObjectFact, Relation, SceneFacts
from sparc_pretrain.data.scenes.files import VAL_START, encode_jpeg, write_scenes
from sparc_pretrain.data.scenes.levels import LEVELS
from sparc_pretrain.data.scenes.paint import BACKGROUNDS, COLOURS, TEXTURES
from sparc_pretrain.data.scenes.render import (
    SEMANTIC_CLASSES,
    SIZES,
    Scene,
    SceneObject,
    caption_facts,
    render_scene,
)
from sparc_pretrain.data.scenes.shapes import CATEGORIES

__all__ = [
    "BACKGROUNDS",
    "CATEGORIES",
    "COLOURS",
    "LEVELS",
    "SEMANTIC_CLASSES",
    "SIZES",
    "TEXTURES",
    "VAL_START",
    "ObjectFact",
    "Relation",
    "Scene",
    "SceneFacts",
    "SceneObject",
    "caption_facts",
    "contact_sheet",
    "encode_jpeg",
    "render_scene",
    "write_scenes",
]

_PAPER, _CARD, _INK, _EDGE = (244, 242, 237), (255, 255, 255), (52, 52, 60), (222, 218, 210)


def contact_sheet(
    path: Path,
    rows: int = 3,
    columns: int = 4,
    size: int = 240,
    seed: int = 0,
    level: str = "hard",
) -> None:
    """Writes a PNG with `rows` x `columns` scenes of `size` pixels, with one caption each.

    Raises ValueError for less than one row or column.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"rows and columns must be at least 1, got {rows} and {columns}")
    gap, inset = max(6, size // 14), max(3, size // 30)
    font = ImageFont.load_default(max(9, size // 17))
    lines, line = 3, round(size / 17 * 1.35)
    width, height = size + 2 * inset, size + 2 * inset + lines * line + inset
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), _PAPER)
    pen = ImageDraw.Draw(sheet)
    letters = int(size / font.getlength("a small red star on a") * 19)
    for number in range(rows * columns):
        scene = render_scene(seed, number, size, level)
        x = gap + number % columns * (width + gap)
        y = gap + number // columns * (height + gap)
        pen.rounded_rectangle((x, y, x + width, y + height), size // 24, _CARD, _EDGE)
        sheet.paste(Image.fromarray(scene.image), (x + inset, y + inset))
        # the first caption that fits below the picture, beginning with the kind whose turn it is
        turns = (1, 2, 4, 1, 3, 2)
        kinds = (turns[number % len(turns)], 1, 4, 3, 0)
        texts = (wrap(scene.captions[kind], letters) for kind in kinds)
        text = next((t for t in texts if len(t) <= lines), wrap(scene.captions[0], letters)[:lines])
        top = y + inset + size + inset + (lines - len(text)) * line // 2
        for row, words in enumerate(text):
            pen.text((x + width / 2, top + row * line), words, _INK, font, anchor="ma")
    sheet.save(path, format="PNG", optimize=True)
