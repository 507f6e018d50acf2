"""Boxes of an evaluation set's images, for models that read regions (UNITER, Oscar)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.data import boxes, images
from sparc_pretrain.data.coco_file import read_coco
from sparc_pretrain.objectives.single_stream import grid_cells
from sparc_pretrain.types import Regions

SEEN = 0.5  # share of a box that must be in the picture as it is read
Boxes = Mapping[str, Tensor]


def read_boxes(file: str | Path) -> Boxes:
    """File name -> boxes [n,4] (x0 y0 x1 y1, pixels) of a COCO-like file, largest first.

    Raises FileNotFoundError, and ValueError naming file and row.
    """
    content = read_coco(file)
    names = {row["id"]: Path(row["file_name"]).name for row in content.images if "file_name" in row}
    rows: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for row in content.annotations:
        x, y, w, h = row["bbox"]
        if row["image_id"] in names and w > 0 and h > 0:
            rows[names[row["image_id"]]].append([x, y, x + w, y + h])
    made = {name: torch.tensor(own, dtype=torch.float64) for name, own in rows.items() if own}
    return {
        name: box[_area(box).argsort(descending=True, stable=True)] for name, box in made.items()
    }


def regions_of(
    files: Sequence[Path], sizes: Sequence[tuple[int, int]], given: Boxes, resize: str
) -> Regions:
    """Regions [B,R] of images of `sizes` (H, W), as `images.eval_resize` shows them; an image of
    which no box is seen has 4 x 4 cells.
    """
    rows = []
    for file, (height, width) in zip(files, sizes, strict=True):
        box = given.get(file.name)
        kept = torch.zeros(0, 4, dtype=torch.float64)
        if box is not None:
            moved, seen = boxes.move(box, images.eval_crop(height, width, resize))
            kept = moved[seen > SEEN]
        rows.append(kept.float() if len(kept) else grid_cells(kept, 1)[0])
    most = max(map(len, rows))
    box = torch.zeros(len(rows), most, 4)
    for row, one in zip(box, rows, strict=True):
        row[: len(one)] = one
    valid = torch.arange(most) < torch.tensor([len(one) for one in rows])[:, None]
    return Regions(box, valid, torch.zeros(len(rows), most, dtype=torch.long))


def joined(parts: Sequence[Regions]) -> Regions:
    """Regions of several batches as one, on the CPU."""
    most = max(part.box.shape[1] for part in parts)

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, most - x.shape[1])).cpu()

    names = ("box", "valid", "label")
    return Regions(*(torch.cat([padded(getattr(p, name)) for p in parts]) for name in names))


def _area(box: Tensor) -> Tensor:
    return (box[:, 2:] - box[:, :2]).prod(dim=1)
