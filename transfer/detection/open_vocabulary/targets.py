"""An image's truth, as the loss of an open-vocabulary detector reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_convert


@dataclass
class Targets:
    """words: the image's queries, Q of them. boxes_N4: (cx, cy, w, h) in shares of the input.
    labels [N] long: places in `words`. known_PQ bool: see `open_vocabulary_losses.class_loss`.
    """

    words: tuple[str, ...]
    boxes_N4: Tensor
    labels: Tensor
    known_PQ: Tensor


def targets(sample: Any, stride: int, image_BCHW: Tensor) -> Targets:
    """From a packed data sample with `gt_instances` (bboxes xyxy in pixels of the input, labels).

    What `FederatedQueries` packed says which classes each region of the image was searched for:
    `query_names` [Q], `regions` [R,4] xyxy, `known` [R,Q]. Without it all of `text` was searched
    for everywhere. A patch belongs to the region its centre is in; outside of all (padding) there
    is nothing of any class. Inside a crowd's box nothing is known of its class.

    Raises:
        ValueError: neither `query_names` nor `text` (which words?).
    """
    height, width = image_BCHW.shape[-2:]
    device = image_BCHW.device
    words = sample.get("query_names") or sample.get("text")
    if not words:
        raise ValueError(
            "training images bring no words: put FederatedQueries before PackDetInputs and"
            " 'query_names', 'regions', 'known' among its meta_keys"
        )
    rows, columns = -(-height // stride), -(-width // stride)
    y, x = torch.meshgrid(
        (torch.arange(rows, device=device) + 0.5) * stride,
        (torch.arange(columns, device=device) + 0.5) * stride,
        indexing="ij",
    )
    centre_P2 = torch.stack([x, y], dim=-1).reshape(-1, 2)
    known_PQ = torch.ones(len(centre_P2), len(words), dtype=torch.bool, device=device)
    if sample.get("query_names"):
        known_RQ = torch.as_tensor(sample.known, device=device)
        for box, known_Q in zip(sample.regions, known_RQ, strict=True):
            known_PQ[inside(centre_P2, torch.as_tensor(box, device=device))] = known_Q
    crowds = sample.get("ignored_instances")
    if crowds is not None and "bboxes" in crowds:
        for box, label in zip(crowds.bboxes, crowds.labels.tolist(), strict=True):
            known_PQ[inside(centre_P2, box), label] = False
    truth = sample.gt_instances
    size = image_BCHW.new_tensor([width, height, width, height], dtype=torch.float32)
    boxes_N4 = box_convert(truth.bboxes.float() / size, "xyxy", "cxcywh")
    return Targets(tuple(words), boxes_N4, truth.labels, known_PQ)


def inside(points_P2: Tensor, box_4: Tensor) -> Tensor:
    """[P] bool: which points lie in the box (x1, y1, x2, y2), its left and upper edge included."""
    return ((points_P2 >= box_4[:2]) & (points_P2 < box_4[2:])).all(dim=-1)
