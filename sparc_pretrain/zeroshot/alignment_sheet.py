"""A page of pictures: a photo, and for every word of its caption the patches that it gathers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sparc_pretrain.data.images import shrink
from sparc_pretrain.zeroshot.alignment import HEAT, WordWeights, overlay

PAPER, CARD, INK, GREY = (244, 242, 237), (255, 255, 255), (32, 36, 44), (110, 116, 128)
GAP, INSET = 14, 8  # between cards, and from a card's rim to its picture; pixels
TILE = 230  # width that a tile comes near to, pixels
LABEL = 34  # height of the line below a tile
NARROWEST = 360  # of a page
LONGEST_SIDE = 3.0  # of a photo, in its shorter sides; longer ones are squeezed


def sheet(
    image: Tensor, caption: str, words: Sequence[WordWeights], width: int = 1280
) -> np.ndarray:
    """The caption above a grid of cards: the photo, then one per word -> [H,width,3] uint8 RGB.

    A patch is clear with its even share (1/P) of the weight or less; "x3.2" is the peak in even
    shares. Panoramas are squeezed to 3:1.

    Args:
        image: [3,H,W] uint8 of any size, as given to `align`. width: of the page, pixels.

    Raises:
        ValueError: a page that is too narrow.
    """
    if width < NARROWEST:
        raise ValueError(f"the picture must be at least {NARROWEST} pixels wide, not {width}")
    ratio = image.shape[-2] / image.shape[-1]
    ratio = min(max(ratio, 1 / LONGEST_SIDE), LONGEST_SIDE)
    columns = max(2, min(len(words) + 1, round(width / (TILE * min(1, 1.25 / ratio)))))
    card = (width - GAP) // columns - GAP
    across = card - 2 * INSET
    down = max(8, round(across * ratio))
    title, body = _font(24), _font(15)
    lines = _wrapped(caption, title, width - 2 * GAP)
    head = 2 * GAP + 30 * len(lines) + 28
    rows = math.ceil((len(words) + 1) / columns)
    height = down + INSET + LABEL
    page = Image.new("RGB", (width, head + rows * (height + GAP)), PAPER)
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        pen.text((GAP, GAP + 30 * number), line, INK, title)
    _legend(page, pen, (GAP, GAP + 30 * len(lines) + 8), body)
    photo = shrink(image, max(across, down)).permute(1, 2, 0).contiguous().numpy()
    photo = np.asarray(Image.fromarray(photo).resize((across, down), Image.Resampling.LANCZOS))
    tiles = [("", "", photo)]
    tiles += [(word.word, f"x{word.peak:.1f}", overlay(photo, word.weights)) for word in words]
    for number, (word, peak, tile) in enumerate(tiles):
        x = GAP + number % columns * (card + GAP)
        y = head + number // columns * (height + GAP)
        pen.rounded_rectangle((x, y, x + card, y + height), 8, CARD)
        page.paste(Image.fromarray(tile), (x + INSET, y + INSET))
        line = y + INSET + down + LABEL // 2 - 2
        room = across - pen.textlength(peak, body) - 8
        pen.text((x + INSET, line), word, INK, _fitting(word, room), anchor="lm")
        pen.text((x + card - INSET, line), peak, GREY, body, anchor="rm")
    return np.asarray(page)


def _legend(page: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], font) -> None:
    """A bar of the heat's colours, and what they mean."""
    x, y = at
    stops = np.linspace(0, 1, len(HEAT))
    bar = np.stack([np.interp(np.linspace(0, 1, 120), stops, HEAT[:, c]) for c in range(3)], -1)
    page.paste(Image.fromarray(np.tile(bar.astype(np.uint8), (12, 1, 1))), (x, y + 2))
    words = (
        "more of the word's weight: from an even share (clear) to its peak, given in even shares"
    )
    pen.text((x + 132, y + 8), words, GREY, font, anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(word: str, room: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font from 18 down to 9 in which the word has room."""
    sizes = range(18, 8, -1)
    return next((f for f in map(_font, sizes) if f.getlength(word) <= room), _font(9))


def _wrapped(text: str, font, width: float) -> list[str]:
    """Lines of whole words; a word longer than a line has one of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
