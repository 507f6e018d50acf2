"""Boxes of an evaluation set's images, for models that read regions (UNITER, Oscar)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.data import boxes, images
from sparc_pretrain.data.coco_file import read_coco
from sparc_pretrain.data.tokenizer import pad
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.single_stream import grid_cells
from sparc_pretrain.types import Regions, SaidTags

SEEN = 0.5  # share of a box that must be in the picture as it is read


class Boxes(dict[str, Tensor]):
    """File name -> boxes [n,4] (x0 y0 x1 y1, pixels), largest first; `names`: of their classes;
    `sizes`: (H, W) of the images that say theirs.
    """

    def __init__(
        self,
        found: Mapping[str, Tensor],
        names: Mapping[str, Sequence[str]],
        sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__(found)
        self.names = names
        self.sizes = sizes

    def seen(self, name: str, size: tuple[int, int], resize: str) -> tuple[Tensor, list[str]]:
        """Boxes [n,4] in 0..1 of an image of `size` (H, W) as `images.eval_resize` shows it, those
        of which enough is seen, and the class names that they have.
        """
        if name not in self:
            return torch.zeros(0, 4, dtype=torch.float64), []
        moved, share = boxes.move(self[name], images.eval_crop(*size, resize))
        told = zip(self.names[name], share > SEEN, strict=True)
        return moved[share > SEEN], [one for one, there in told if there and one]


def read_boxes(file: str | Path) -> Boxes:
    """Of a COCO-like file.

    Raises FileNotFoundError, and ValueError naming file and row.
    """
    content = read_coco(file)
    names = {row["id"]: Path(row["file_name"]).name for row in content.images if "file_name" in row}
    called = {row["id"]: str(row.get("name") or "") for row in content.categories}
    rows: dict[str, list[tuple[list[float], str]]] = {name: [] for name in names.values()}
    for row in content.annotations:
        x, y, w, h = row["bbox"]
        if row["image_id"] in names and w > 0 and h > 0:
            said = called.get(row.get("category_id"), "")
            rows[names[row["image_id"]]].append(([x, y, x + w, y + h], said))
    for own in rows.values():
        own.sort(key=lambda one: -_area(one[0]))  # stable
    made = {
        name: torch.tensor([box for box, _ in own], dtype=torch.float64)
        for name, own in rows.items()
        if own
    }
    said = {name: [told for _, told in own] for name, own in rows.items()}
    sizes = {
        Path(row["file_name"]).name: (int(row["height"]), int(row["width"]))
        for row in content.images
        if {"file_name", "height", "width"} <= row.keys()
    }
    return Boxes(made, said, sizes)


def regions_of(
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    given: Boxes,
    resize: str,
    model: DualEncoder | None = None,
) -> Regions:
    """Regions [B,R] of images of `sizes` (H, W), as `images.eval_resize` shows them; an image of
    which no box is seen has 4 x 4 cells. model: its tokens are those of the class names.
    """
    both = zip(files, sizes, strict=True)
    seen = [given.seen(file.name, size, resize) for file, size in both]
    return as_regions(*zip(*seen, strict=True), model)


def as_regions(
    given: Sequence[Tensor], names: Sequence[Sequence[str]], model: DualEncoder | None
) -> Regions:
    """Regions [B,R] of boxes [n,4] in 0..1 and their class names; see `regions_of`."""
    rows = [one.float() if len(one) else grid_cells(one, 1)[0] for one in given]
    most = max(map(len, rows))
    box = torch.zeros(len(rows), most, 4)
    for row, one in zip(box, rows, strict=True):
        row[: len(one)] = one
    valid = torch.arange(most) < torch.tensor([len(one) for one in rows])[:, None]
    tags = None if model is None else _tags(names, model)
    return Regions(box, valid, torch.zeros(len(rows), most, dtype=torch.long), tags=tags)


def _tags(said: Sequence[Sequence[str]], model: DualEncoder) -> SaidTags | None:
    """Class names of images as tags; None where texts are read in their context: then they had to
    be behind each caption before it is read.
    """
    if model.tokenizer is None or model.text is None or model.text.settings["layers"]:
        return None
    longest, words = model.text.max_tokens, model.tokenizer
    rows = [words.encode(" ".join(own), longest).ids[1:] if own else [] for own in said]
    ids, mask, _ = pad(rows, [[False] * len(row) for row in rows], words.pad_id)
    return SaidTags(ids, mask, model.text, longest)


def joined(parts: Sequence[Regions]) -> Regions:
    """Regions of several batches as one, on the CPU."""
    most = max(part.box.shape[1] for part in parts)

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, (0, 0) * (x.ndim - 2) + (0, most - x.shape[1])).cpu()

    names = ("box", "valid", "label")
    whole = Regions(*(torch.cat([padded(getattr(p, name)) for p in parts]) for name in names))
    if tags := [part.tags for part in parts if part.tags is not None]:
        most = max(one.ids.shape[1] for one in tags)
        both = (torch.cat([padded(getattr(t, name)) for t in tags]) for name in ("ids", "mask"))
        whole.tags = SaidTags(*both, tags[0].tower, tags[0].longest)
    return whole


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
