"""Where the words of a caption are in its image, as a phrase file tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from sparc_pretrain.data.sets.phrases import PhraseImage
from sparc_pretrain.zeroshot.alignment import ARTICLES, FUNCTION_WORDS, WordWeights
from sparc_pretrain.zeroshot.grounding import hit_patches


@dataclass(frozen=True)
class Truth:
    """caption[start:end] is in boxes [N,4]: x0 y0 x1 y1, shares of the image's sides."""

    start: int
    end: int
    boxes: Tensor


def is_minor(word: str) -> bool:
    """Whether it is an article or another function word, which names nothing."""
    return word.lower() in (*ARTICLES, *FUNCTION_WORDS)


def of_caption(image: PhraseImage, caption: str) -> list[Truth]:
    """What the file knows of the phrases of `caption`, one of the image's sentences."""
    sides = torch.tensor([image.width, image.height] * 2)
    return [
        Truth(phrase.start, phrase.end, phrase.boxes / sides)
        for phrase in image.phrases
        if phrase.sentence == caption
    ]


def boxes_of(word: WordWeights, truth: Sequence[Truth]) -> Tensor | None:
    """The boxes of the phrase that `word` is part of, None where none is known."""
    for phrase in truth:
        if phrase.start <= word.start and word.end <= phrase.end and not is_minor(word.word):
            return phrase.boxes
    return None


def outlined(picture: np.ndarray, boxes: Tensor | None) -> np.ndarray:
    """`picture` [H,W,3] uint8 with boxes, shares of its sides, in white on black."""
    drawn = picture.copy()
    height, width = picture.shape[:2]
    for x0, y0, x1, y1 in [] if boxes is None else boxes.tolist():
        corners = (round(x0 * width), round(y0 * height)), (round(x1 * width), round(y1 * height))
        cv2.rectangle(drawn, *corners, (0, 0, 0), 5)
        cv2.rectangle(drawn, *corners, (255, 255, 255), 2)
    return drawn


def points_into(word: WordWeights, boxes: Tensor) -> bool:
    """Whether the centre of the word's strongest patch lies in one of boxes, see `boxes_of`."""
    hits = hit_patches(boxes, tuple(word.weights.shape), (1, 1))
    return bool(hits.flatten()[word.weights.argmax()])
