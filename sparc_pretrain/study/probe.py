"""What a frozen backbone holds, read by linear heads: categories, colours and boxes of objects.

Suffixes: N objects, P patches, C classes, D width of the vision tower's states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from sparc_pretrain.data.scenes import COLOURS
from sparc_pretrain.data.sets.phrases import read_phrases
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.study.measure import Measure, Measures, Subject, Task
from sparc_pretrain.towers.regions import region_states
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.regions import read_regions

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # ridge penalties tried, times the number of objects
HELD_OUT = 5  # one image of so many chooses the penalty


@dataclass(frozen=True)
class Objects:
    """Boxes [N,4] (x0 y0 x1 y1 in 0..1) with their classes [N] and the rows [N] of their images."""

    files: list[Path]
    boxes: Tensor
    labels: Tensor
    owners: Tensor

    @classmethod
    def of(cls, rows: Sequence[tuple[Path, Tensor, Sequence[int]]]) -> Objects:
        """rows: image file, its boxes, their classes."""
        counts = torch.tensor([len(labels) for _, _, labels in rows])
        return cls(
            [file for file, _, _ in rows],
            torch.cat([boxes for _, boxes, _ in rows]).float(),
            torch.tensor([label for _, _, labels in rows for label in labels]),
            torch.arange(len(rows)).repeat_interleave(counts),
        )


def probe(
    images: str,
    annotations: str,
    train_images: str,
    train_annotations: str,
    phrases: str | None = None,
    train_phrases: str | None = None,
    limit: int = 1000,
) -> Task:
    """Ridge regressions on the states of the frozen vision tower, fitted on `limit` training
    images: the category of a ground-truth box and, where phrases name one, its colour, from the
    mean state inside it; an object's box from the state of the patch that holds its centre.
    """
    told = {
        "category": [
            categories(folder, file, most)
            for folder, file, most in (
                (train_images, train_annotations, limit),
                (images, annotations, None),
            )
        ]
    }
    if phrases and train_phrases:
        told["colour"] = [
            colours(train_images, train_phrases, limit),
            colours(images, phrases, None),
        ]

    def of(subject: Subject) -> Measures:
        found: Measures = {}
        states, grid = states_of(subject.model, [one for pair in told.values() for one in pair])
        for name, (train, val) in told.items():
            x, seen = (torch.stack([states[file] for file in one.files]) for one in (train, val))
            fitting = pooled(x, train, grid), F.one_hot(train.labels).double()
            guess = ridge(*fitting, train.owners)(pooled(seen, val, grid)).argmax(dim=1)
            commonest = (val.labels == train.labels.mode().values).double().mean()
            hits = (guess == val.labels).double()
            owners = val.owners.tolist()
            found[f"probe_{name}"] = Measure.of(hits, owners, {"commonest": commonest})
            if name == "category":
                found["probe_box_IoU"] = boxes_of((x, train), (seen, val), grid)
        return found

    return of


def categories(images: str, annotations: str, limit: int | None) -> Objects:
    """The boxes of a COCO file with their categories."""
    found = []
    for image in read_regions(images, annotations, limit).images:
        height, width = image.size
        share = image.boxes / image.boxes.new_tensor([width, height] * 2)
        found.append((image.file, share, image.labels))
    return Objects.of(found)


def colours(images: str, phrases: str, limit: int | None) -> Objects:
    """The boxes of phrases that mean one object and name one of the scenes' colours, once each.

    Raises ValueError where there are none.
    """
    names, rows = list(COLOURS), []
    for image in read_phrases(images, phrases, limit):
        told: dict[tuple[float, ...], int] = {}
        for phrase in image.phrases:
            said = [names.index(word) for word in phrase.text.lower().split() if word in names]
            if len(phrase.boxes) == 1 and len(said) == 1:
                told[tuple(phrase.boxes[0].tolist())] = said[0]
        if told:
            share = torch.tensor(list(told)) / torch.tensor([image.width, image.height] * 2)
            rows.append((image.file, share, list(told.values())))
    if not rows:
        raise ValueError(f"{phrases} names no colour of one object")
    return Objects.of(rows)


def states_of(
    model: DualEncoder, several: Sequence[Objects]
) -> tuple[dict[Path, Tensor], tuple[int, int]]:
    """Of each image [P,D], squashed to the training size; the grid of the patches (h, w)."""
    files = list(dict.fromkeys(file for one in several for file in one.files))
    parts = encode.encode_images(model, files, ("patch_states",), "squash")
    states = [one for part in parts for one in part.patch_states.float().cpu()]
    side = model.vision.img_size // model.vision.patch
    return dict(zip(files, states, strict=True)), (side, side)


def pooled(states: Tensor, data: Objects, grid: tuple[int, int]) -> Tensor:
    """[N,D]: the mean state inside each box."""
    rows = zip(data.boxes, data.owners, strict=True)
    return torch.cat([region_states(states[i, None], box[None, None], grid)[0] for box, i in rows])


def boxes_of(
    train: tuple[Tensor, Objects], val: tuple[Tensor, Objects], grid: tuple[int, int]
) -> Measure:
    """IoU of each object's box with the one that is read off the patch of its centre; blind: the
    mean training box around that patch.
    """
    h, w = grid

    def centred(states: Tensor, data: Objects) -> tuple[Tensor, Tensor, Tensor]:
        middle = (data.boxes[:, :2] + data.boxes[:, 2:]) / 2
        cell = (middle * middle.new_tensor([w, h])).long()
        cell = torch.minimum(cell, cell.new_tensor([w - 1, h - 1])).clamp(min=0)
        anchor = ((cell + 0.5) / middle.new_tensor([w, h])).repeat(1, 2).double()
        return states[data.owners, cell[:, 1] * w + cell[:, 0]], anchor, data.boxes.double()

    x, anchor, truth = centred(*train)
    seen, where, wanted = centred(*val)
    sides = truth - anchor
    read = where + ridge(x, sides, train[1].owners)(seen)
    overlap, blind = (
        box_iou(boxes, wanted).diagonal().nan_to_num()
        for boxes in (ordered(read), where + sides.mean(dim=0))
    )
    return Measure.of(overlap, val[1].owners.tolist(), {"the mean box": blind.mean()})


def ordered(boxes: Tensor) -> Tensor:
    """[N,4] with x0 <= x1 and y0 <= y1, inside the image."""
    low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])
    return torch.cat([low, high], dim=1).clamp(0, 1)


class Ridge:
    """y ~ standardised x: least squares with a penalty of `strength` times the number of rows on
    the weights, none on the intercept. x [N,D], y [N,C]; computed in float64.
    """

    def __init__(self, x: Tensor, y: Tensor, strength: float) -> None:
        x, y = x.double(), y.double()
        self.mean, self.scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
        self.offset, z = y.mean(dim=0), (x - self.mean) / self.scale
        gram = z.T @ z + strength * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
        self.weight = torch.linalg.solve(gram, z.T @ (y - self.offset))

    def __call__(self, x: Tensor) -> Tensor:
        """[M,D] -> [M,C]."""
        return (x.double() - self.mean) / self.scale @ self.weight + self.offset


def ridge(x: Tensor, y: Tensor, owners: Tensor) -> Ridge:
    """Of STRENGTHS the one with the least squares on every HELD_OUT-th image, fitted on all."""
    kept = owners % HELD_OUT != 0
    if kept.all() or not kept.any():
        return Ridge(x, y, STRENGTHS[-1])

    def error(strength: float) -> float:
        fitted = Ridge(x[kept], y[kept], strength)
        return (fitted(x[~kept]) - y[~kept]).square().mean().item()

    return Ridge(x, y, min(STRENGTHS, key=error))
