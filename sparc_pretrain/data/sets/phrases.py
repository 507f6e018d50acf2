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

from sparc_pretrain.data.coco_file import read_json
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
    records = read_json(path, "phrase file")
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
    # a chain without a box is a phrase that the picture does not show ("the day")
    boxes = {chain: _corners(rows) for chain, rows in record["boxes"].items() if rows}
    masks = record.get("masks", {})
    phrases = [
        Phrase(
            sentence["text"],
            *phrase["span"],
            boxes[str(phrase["chain"])],
            masks.get(str(phrase["chain"]), []),
            tuple(phrase["types"]),
        )
        for sentence in record["sentences"]
        for phrase in sentence["phrases"]
        if str(phrase["chain"]) in boxes
    ]
    return PhraseImage(folder / record["file_name"], record["width"], record["height"], phrases)


def _corners(rows: list[list[float]]) -> Tensor:
    """[[x, y, w, h], ...] -> [N,4] x0 y0 x1 y1."""
    if any(len(row) != 4 for row in rows):
        raise TypeError("boxes of four numbers")
    boxes = torch.tensor(rows, dtype=torch.float64)
    if not math.isfinite(boxes.sum().item()):
        raise TypeError("finite boxes")
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
