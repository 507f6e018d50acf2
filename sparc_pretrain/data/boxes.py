"""Boxes of an image that is cropped, mirrored and resized. Boxes are x0 y0 x1 y1."""

from __future__ import annotations

import math

import numpy as np
import regex
import torch
from torch import Tensor

Crop = tuple[int, int, int, int]  # top, left, height, width, in pixels of the image

# "leftmost" and "to the right-hand side" change their meaning as "left" does; "bright" does not
SIDE = regex.compile(r"\b(left|right)(most|wards?|hand(ed)?)?\b", regex.IGNORECASE)


def move(boxes: Tensor, crop: Crop, flip: bool = False) -> tuple[Tensor, Tensor]:
    """Boxes [N,4] in pixels of an image -> (boxes [N,4] in 0..1 of the crop, clipped to it, and
    the share [N] of each one's area that is left).

    Args: flip: the crop is mirrored afterwards (x0, x1 -> 1-x1, 1-x0).
    """
    top, left, height, width = crop
    low = boxes.new_tensor([left, top, left, top])
    size = boxes.new_tensor([width, height, width, height])
    whole = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    inside = torch.minimum((boxes - low).clamp(min=0), size)
    visible = (inside[:, 2:] - inside[:, :2]).prod(dim=1) / whole
    inside = inside / size
    if flip:
        x0, y0, x1, y1 = inside.unbind(dim=1)
        inside = torch.stack([1 - x1, y0, 1 - x0, y1], dim=1)
    return inside, visible


def crop_round(box: Tensor, height: int, width: int, generator: np.random.Generator) -> Crop:
    """A random crop that holds box [4] (pixels) whole (X-VLM's released code): its left edge is
    uniform over the whole numbers 0..floor(x0), its right one over ceil(x1)..width, rows alike.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    left, right = _edges(x0, x1, width, generator)
    top, bottom = _edges(y0, y1, height, generator)
    return top, left, bottom - top, right - left


def _edges(low: float, high: float, size: int, generator: np.random.Generator) -> tuple[int, int]:
    first = int(generator.integers(math.floor(max(low, 0)) + 1))
    return first, int(generator.integers(min(math.ceil(high), size), size + 1))


def names_a_side(text: str) -> bool:
    """Whether a text says left or right, as a word of its own: a mirrored image would belie it."""
    return SIDE.search(text) is not None
