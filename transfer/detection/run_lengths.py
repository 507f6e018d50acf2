"""Masks as COCO's run lengths: encoded from the part of the image that their box covers, and kept
packed, on disk where there are many.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hotcoco
import numpy as np
import torch


def encode(masks: torch.Tensor | Sequence[dict], boxes: torch.Tensor | None = None) -> list[dict]:
    """Masks [N,H,W], or RLEs, -> RLEs whose counts are text, as JSON needs them.

    Args:
        boxes: [N,4] xyxy in pixels, where the masks are looked for first; a mask that has pixels
            outside of its own is read whole.
    """
    if isinstance(masks, torch.Tensor):
        masks = masks.detach().bool()
        height, width = masks.shape[1:]
        totals = _pixels(masks)
        whole = (0, 0, width, height)
        spans = [whole] * len(masks) if boxes is None else _spans(boxes, width, height)
        parts = [
            _part(mask, span, total) for mask, span, total in zip(masks, spans, totals, strict=True)
        ]
        masks = [_encoded(crop, corner, height, width) for crop, corner in parts]
    return [
        {**rle, "counts": c.decode() if isinstance(c := rle["counts"], bytes) else c}
        for rle in masks
    ]


def _pixels(masks: torch.Tensor) -> list[int]:
    """How many pixels each of masks [N,H,W] bool has."""
    if masks.device.type == "cpu":  # torch's count takes 30 times as long there
        return [np.count_nonzero(mask) for mask in masks.numpy()]
    return masks.flatten(1).count_nonzero(1).tolist()


def _spans(boxes: torch.Tensor, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Whole pixels that each box touches, and one more on each side: [x0, x1) x [y0, y1)."""
    corners = boxes.detach().double().cpu().numpy().reshape(-1, 4)
    corners = np.nan_to_num(corners, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = np.floor(corners[:, :2]) - 1, np.ceil(corners[:, 2:]) + 1
    most = np.array([width, height])
    low, high = np.clip(low, 0, most), np.clip(high, 0, most)
    return [tuple(map(int, row)) for row in np.concatenate([low, high], 1)]


def _part(
    mask: torch.Tensor, span: tuple[int, int, int, int], total: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """The columns [w,h] of a mask [H,W] that hold all of its `total` pixels, and their corner."""
    x0, y0, x1, y1 = span
    crop = mask[y0:y1, x0:x1].T.contiguous().cpu().numpy()
    if np.count_nonzero(crop) == total:
        return crop, (x0, y0)
    return mask.T.contiguous().cpu().numpy(), (0, 0)


def _encoded(crop: np.ndarray, corner: tuple[int, int], height: int, width: int) -> dict:
    """The RLE of a mask whose pixels are all in `crop` [w,h] at `corner` (x, y). Runs go down the
    columns; one that reaches the bottom goes on at the top of the next column.
    """
    edges = np.diff(np.pad(crop, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    places = [np.argwhere(edges == sign) for sign in (1, -1)]
    starts, ends = (
        (found[:, 0] + corner[0]) * height + found[:, 1] + corner[1] for found in places
    )
    if len(starts):
        apart = starts[1:] != ends[:-1]
        starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    bounds = np.stack([starts, ends], 1).ravel()
    runs = np.diff(bounds, prepend=0, append=height * width).tolist()
    if runs[-1] == 0:
        runs.pop()
    return hotcoco.mask.fr_py_objects({"size": [height, width], "counts": runs}, height, width)


@dataclass(frozen=True)
class Packed:
    """The RLEs of one image's detections in one piece.

    size: [H, W]. lengths: [N] bytes of each. data: the bytes; or, in `file`, where they begin.
    """

    size: tuple[int, int]
    lengths: np.ndarray
    data: bytes | int
    file: str | None = None

    def rles(self, which: Sequence[int]) -> list[dict]:
        """The RLEs of some of the image's detections."""
        if isinstance(self.data, bytes):
            held = self.data
        else:
            with open(self.file, "rb") as file:
                file.seek(self.data)
                held = file.read(int(self.lengths.sum()))
        ends = np.cumsum(self.lengths)
        return [
            {"size": list(self.size), "counts": held[ends[i] - self.lengths[i] : ends[i]].decode()}
            for i in which
        ]


class Shelf:
    """Where the masks of an evaluation wait: a file of this process, since those of a large
    vocabulary (1,000 an image) fill a memory. Where processes run on several machines, which do not
    see each other's temporary files, they stay in memory.
    """

    def __init__(self) -> None:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
        self.on_disk = here == int(os.environ.get("WORLD_SIZE", "1"))
        self.path: Path | None = None
        self.size = 0

    def pack(self, rles: Sequence[dict]) -> Packed:
        """The RLEs of one image, put away."""
        texts = [rle["counts"].encode() for rle in rles]
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        size = tuple(rles[0]["size"]) if rles else (0, 0)
        data = b"".join(texts)
        if not self.on_disk:
            return Packed(size, lengths, data)
        if self.path is None:
            handle, name = tempfile.mkstemp(prefix="sparc-masks-")
            os.close(handle)
            self.path, self.size = Path(name), 0
        with self.path.open("ab") as file:
            file.write(data)
        start, self.size = self.size, self.size + len(data)
        return Packed(size, lengths, start, str(self.path))

    def clear(self) -> None:
        """Delete the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.path = None

    def __del__(self) -> None:
        self.clear()
