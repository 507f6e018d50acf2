"""A page of pictures: a photo, and for every word of its caption the patches that it gathers, with
how much more the word finds there than in other images.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sparc_pretrain.data.images import shrink
from sparc_pretrain.zeroshot.alignment import HEAT, overlay
from sparc_pretrain.zeroshot.readings import Reading

PAPER, CARD, INK, GREY = (244, 242, 237), (255, 255, 255), (24, 32, 43), (90, 98, 112)
GAP, INSET = 14, 8  # between cards, and from a card's rim to its picture; pixels
TILE = 230  # width that a tile comes near to, pixels
LABEL = 54  # height of the two lines below a tile
LINE = 21  # height of a line of the foot
NARROWEST = 360  # of a page
LONGEST_SIDE = 3.0  # of a photo, in its shorter sides; longer ones are squeezed


def sheet(
    image: Tensor, caption: str, reading: Reading, width: int = 1280, measured: str = ""
) -> np.ndarray:
    """The caption above a grid of cards: the photo, then one per word -> [H,width,3] uint8 RGB.

    A patch is clear with its even share (1/P) of the weight or less. Right below it the word's
    score above that on other images, and both; "*" marks words that the tokenizer cuts in pieces.
    Panoramas are squeezed to 3:1.

    Args:
        image: [3,H,W] uint8 of any size, as given to `readings.read`. width: of the page, pixels.
        measured: a line below the cards: how often the model points at the right place.

    Raises:
        ValueError: a page that is too narrow.
    """
    if width < NARROWEST:
        raise ValueError(f"the picture must be at least {NARROWEST} pixels wide, not {width}")
    words = reading.own
    ratio = image.shape[-2] / image.shape[-1]
    ratio = min(max(ratio, 1 / LONGEST_SIDE), LONGEST_SIDE)
    columns = max(2, min(len(words) + 1, round(width / (TILE * min(1, 1.25 / ratio)))))
    card = (width - GAP) // columns - GAP
    across = card - 2 * INSET
    down = max(8, round(across * ratio))
    title, body, number_font = _font(24), _font(15), _font(17)
    lines = _wrapped(caption, title, width - 2 * GAP)
    head = 2 * GAP + 30 * len(lines) + 28
    rows = math.ceil((len(words) + 1) / columns)
    height = down + INSET + LABEL
    foot = _foot(reading, measured, body, width - 2 * GAP)
    below = head + rows * (height + GAP)
    page = Image.new("RGB", (width, below + LINE * len(foot) + GAP * bool(foot)), PAPER)
    pen = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        pen.text((GAP, GAP + 30 * number), line, INK, title)
    _legend(page, pen, (GAP, GAP + 30 * len(lines) + 8), body)
    photo = shrink(image, max(across, down)).permute(1, 2, 0).contiguous().numpy()
    photo = np.asarray(Image.fromarray(photo).resize((across, down), Image.Resampling.LANCZOS))
    tiles = [("the photo", "", "", photo)]
    for number, word in enumerate(words):
        gap, marked = reading.gap(number), word.word + ("*" if word.pieces > 1 else "")
        first = _plain(word.score) if gap is None else _plain(gap, "+")
        both = f"here {_plain(word.score)}" if gap is not None else ""
        both += f", others {_plain(reading.elsewhere(number))}" if gap is not None else ""
        tiles.append((marked, first, both, overlay(photo, word.weights)))
    for number, (word, first, both, tile) in enumerate(tiles):
        x = GAP + number % columns * (card + GAP)
        y = head + number // columns * (height + GAP)
        pen.rounded_rectangle((x, y, x + card, y + height), 8, CARD)
        page.paste(Image.fromarray(tile), (x + INSET, y + INSET))
        line, right = y + INSET + down + 17, x + card - INSET
        room = across - pen.textlength(first, number_font) - 8
        ink = INK if number else GREY
        pen.text((x + INSET, line), word, ink, _fitting(word, room), anchor="lm")
        pen.text((right, line), first, INK, number_font, anchor="rm")
        pen.text((right, line + 20), both, GREY, _fitting(both, across, 13), anchor="rm")
    for number, text in enumerate(foot):
        pen.text((GAP, below + LINE * number), text, INK, body)
    return np.asarray(page)


def _foot(reading: Reading, measured: str, font, width: float) -> list[str]:
    """Lines below the cards: what the numbers are, which words are in pieces, what was measured."""
    said = ["Cosine of the word and what it gathers."]
    if reading.others:
        said = [
            "Numbers: how much more the word finds here than in "
            f"{len(reading.others)} other image{'s' * (len(reading.others) > 1)}. Near 0 it "
            "says the same of them, unless they show it too."
        ]
    if any(word.pieces > 1 for word in reading.own):
        said.append("* in pieces: the tokenizer's training text had it rarely or never.")
    return _wrapped(" ".join([*said, measured]), font, width)


def _legend(page: Image.Image, pen: ImageDraw.ImageDraw, at: tuple[int, int], font) -> None:
    """A bar of the heat's colours, and what they mean."""
    x, y = at
    stops = np.linspace(0, 1, len(HEAT))
    bar = np.stack([np.interp(np.linspace(0, 1, 120), stops, HEAT[:, c]) for c in range(3)], -1)
    page.paste(Image.fromarray(np.tile(bar.astype(np.uint8), (12, 1, 1))), (x, y + 2))
    words = "more of the word's weight: from an even share (clear) to its strongest patch"
    pen.text((x + 132, y + 8), words, GREY, font, anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _plain(value: float, sign: str = "-") -> str:
    text = f"{value:{sign}.2f}"  # the font has no minus sign
    return "0.00" if text[1:] == "0.00" else text


def _fitting(
    word: str, room: float, largest: int = 18
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font from `largest` down to 9 in which the word has room."""
    sizes = range(largest, 8, -1)
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
