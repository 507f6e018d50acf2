"""Phrases of captions with the boxes they mean: Flickr30k Entities as JSON, the scenes' files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from sparc_pretrain import json_file
from sparc_pretrain.data.sets import references


@dataclass(frozen=True)
class Phrase:
    """text[start:end] of a sentence; boxes [N,4] float, x0 y0 x1 y1 in pixels; masks: RLE, or
    empty where there are only boxes.
    """

    sentence: str
    start: int
    end: int
    boxes: Tensor
    masks: list[dict[str, Any]]
    types: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.sentence[self.start : self.end]

    def mask(self, height: int, width: int) -> Tensor:
        """What the phrase means, [H,W] bool: the union of its masks, else of its boxes."""
        if not self.masks:
            return box_mask(self.boxes, height, width)
        rles = [{"size": m["size"], "counts": m["counts"].encode()} for m in self.masks]
        union = np.asarray(coco_mask.decode(coco_mask.merge(rles)), dtype=bool)
        return torch.from_numpy(union)


@dataclass(frozen=True)
class PhraseImage:
    """An image with its size in pixels and the phrases of its captions that have boxes."""

    file: Path
    width: int
    height: int
    phrases: list[Phrase]


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """The pixels [H,W] bool whose centre lies in at least one of boxes [N,4] (x0 y0 x1 y1)."""
    x = torch.arange(width) + 0.5
    y = torch.arange(height) + 0.5
    across = (x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])
    down = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])
    return (down[:, :, None] & across[:, None, :]).any(dim=0)


def read_phrases(
    images: str | Path | None, file: str | Path, limit: int | None = None
) -> list[PhraseImage]:
    """The phrases with boxes of the first `limit` images of a file.

    The file is a list of {file_name, width, height, sentences: [{text, phrases: [{chain, types,
    span}]}], boxes: {chain: [[x, y, w, h], ...]}}, and optionally masks: {chain: [RLE, ...]}; or
    one of referring expressions, see `references`. images: None = they are not looked for.

    Raises:
        FileNotFoundError: the file, or an image it names. ValueError: another kind of file, or no
            phrase that has a box.
    """
    path, folder = Path(file), Path(images or "")
    references.refuse_pickle(path)
    records = json_file.read(path, what="phrase file")
    try:
        records = references.records_of(records) or records
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: an expression has no {error} as it should") from None
    if not isinstance(records, list):
        raise ValueError(f"{path} is not a list of images with sentences and boxes")
    found = []
    for number, record in enumerate(records[:limit]):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: entry {number} is no object")
        try:
            image = _image(record, folder)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: entry {number} has no {error} as it should") from None
        if images is not None and not image.file.is_file():
            raise FileNotFoundError(f"{image.file} is missing; {path} names it")
        found.append(image)
    if not any(image.phrases for image in found):
        raise ValueError(f"{path} holds no phrase with a box")
    return found


def _image(record: dict[str, Any], folder: Path) -> PhraseImage:
    width, height = record["width"], record["height"]
    if not all(type(side) is int and side > 0 for side in (width, height)):
        raise TypeError("width and height")
    boxes = {c: _corners(rows, width, height) for c, rows in record["boxes"].items()}
    masks = record.get("masks", {})
    phrases = [
        Phrase(
            sentence["text"],
            *_span(sentence["text"], phrase["span"]),
            boxes[str(phrase["chain"])],
            _masks(masks.get(str(phrase["chain"]), []), [height, width]),
            _words(phrase["types"]),
        )
        for sentence in record["sentences"]
        for phrase in sentence["phrases"]
        # a chain without a box is a phrase that the picture does not show ("the day")
        if len(boxes.get(str(phrase["chain"]), ()))
    ]
    return PhraseImage(folder / record["file_name"], width, height, phrases)


def _span(text: Any, span: Any) -> tuple[int, int]:
    if not isinstance(text, str):
        raise TypeError("text")
    start, end = span if isinstance(span, list) and len(span) == 2 else (None, None)
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise TypeError(f"span in {text!r}")
    return start, end


def _masks(rows: Any, size: list[int]) -> list[dict[str, Any]]:
    if not all(one["size"] == size and isinstance(one["counts"], str) for one in rows):
        raise TypeError("masks of the image's size")
    return rows


def _words(types: Any) -> tuple[str, ...]:
    if not isinstance(types, list) or not all(isinstance(one, str) for one in types):
        raise TypeError("types")
    return tuple(types)


def _corners(rows: list[list[float]], width: int, height: int) -> Tensor:
    """[[x, y, w, h], ...] -> [N,4] x0 y0 x1 y1 of those that are not empty."""
    if any(len(row) != 4 or bool in map(type, row) for row in rows):
        raise TypeError("boxes of four numbers")
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    if not math.isfinite(boxes.sum().item()):
        raise TypeError("finite boxes")
    boxes = boxes[(boxes[:, 2:] > 0).all(dim=1)]
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    if not ((high > 0) & (low < boxes.new_tensor([width, height]))).all():
        raise TypeError("boxes inside the image")  # no pixel would be right
    return torch.cat([low, high], dim=1)
