"""Maps of classes, drawn so that they can be read: where mmseg's own pictures pile names up, cut
them at the edge, and name specks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

NAMED = 0.01  # share of the picture from which a class is named
FONT, PAD = cv2.FONT_HERSHEY_SIMPLEX, 4
DARK, BRIGHT = (0, 0, 0), (255, 255, 255)
Box = tuple[int, int, int, int]


def draw_classes(
    self: Any,
    image: np.ndarray,
    sem_seg: Any,
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    with_labels: bool = True,
) -> np.ndarray:
    """In the place of `SegLocalVisualizer._draw_sem_seg`: a class over `NAMED` of the picture has
    its name once, inside itself and the picture, over no other name, where there is room for it;
    largest classes first. Pixels of no class keep the photo.

    Args: image: [H,W,3] uint8. sem_seg: PixelData of [1,H,W]. palette: RGB of each class.
    """
    labels = np.asarray(sem_seg.cpu().data[0])
    ids, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts)
    ids, counts = ids[order], counts[order]
    drawn = image.copy()
    for index in ids[ids < len(classes)]:
        inside = labels == index
        painted = image[inside] * (1 - self.alpha) + np.array(palette[index]) * self.alpha
        drawn[inside] = painted.astype(np.uint8)
    taken: list[Box] = []
    for index, count in zip(ids, counts, strict=True):
        if with_labels and index < len(classes) and count >= NAMED * labels.size:
            _name(drawn, labels == index, classes[index], tuple(map(int, palette[index])), taken)
    self.set_image(drawn)
    return drawn


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _name(
    image: np.ndarray,
    inside: np.ndarray,
    text: str,
    colour: tuple[int, ...],
    taken: list[Box],
) -> None:
    """Write `text` at the innermost place of `inside` [H,W] bool where there is room for it."""
    height, width = inside.shape
    size = min(height, width) / 580
    (wide, high), base = cv2.getTextSize(text, FONT, size, 1)
    wide, high = wide + 2 * PAD, high + base + PAD
    if wide > width or high > height:
        return
    # a border, so that the edge of the picture is an edge of the class
    deep = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    while deep.max() > 0:
        y, x = np.unravel_index(deep.argmax(), deep.shape)
        left = int(np.clip(x - wide // 2, 0, width - wide))
        top = int(np.clip(y - high // 2, 0, height - high))
        box = (left, top, left + wide, top + high)
        if not any(_meet(box, other) for other in taken):
            break
        deep[max(0, y - high) : y + high, max(0, x - high) : x + high] = 0
    else:
        return
    taken.append(box)
    cv2.rectangle(image, box[:2], box[2:], colour, -1)
    cv2.rectangle(image, box[:2], box[2:], DARK, 1)
    luminance = np.dot((0.299, 0.587, 0.114), colour)
    ink = DARK if luminance > 140 else BRIGHT
    cv2.putText(image, text, (left + PAD, top + high - base), FONT, size, ink, 1, cv2.LINE_AA)
