"""The loss of predicted boxes: L1 and generalised IoU."""

from __future__ import annotations

import torch
from torch import Tensor

from sparc_pretrain.objectives.contrastive import full_precision, without_autocast


def corners(boxes: Tensor) -> Tensor:
    """[...,4] of cx cy w h -> x0 y0 x1 y1."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def centred(boxes: Tensor) -> Tensor:
    """[...,4] of x0 y0 x1 y1 -> cx cy w h."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def _areas(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of pairs of boxes [N,4]: common area, area of the union, area of the box round both."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    union = sum((box[:, 2:] - box[:, :2]).prod(dim=1) for box in (one, other)) - common
    low, high = torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:])
    return common, union, (high - low).prod(dim=1)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 of nothing."""
    there = whole > 0
    return torch.where(there, part / torch.where(there, whole, 1), 0)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of pairs of boxes [N,4] (x0 y0 x1 y1) -> [N]."""
    common, union, _ = _areas(one, other)
    return _share(common, union)


def giou(one: Tensor, other: Tensor) -> Tensor:
    """Generalised IoU (arXiv 1902.09630, alg. 1) of pairs of boxes [N,4] (x0 y0 x1 y1) -> [N], in
    -1..1: IoU less the share of the box round both that neither fills. Without area: 0.
    """
    common, union, hull = _areas(one, other)
    return _share(common, union) - _share(hull - union, hull)


@without_autocast
def box_loss(
    predicted: Tensor, wanted: Tensor, valid: Tensor, divisor: Tensor | float | None = None
) -> tuple[Tensor, Tensor]:
    """(L1, 1 - GIoU) of the valid boxes, each summed over boxes and divided by `divisor` (None:
    their number, at least 1). L1 is the sum over the four numbers.

    Args: predicted, wanted: [N,4], cx cy w h in 0..1. valid: [N] bool.
    """
    # in the place of the others stands one box, which costs nothing
    predicted, wanted = (
        torch.where(valid[:, None], full_precision(boxes), 0.5) for boxes in (predicted, wanted)
    )
    divisor = valid.sum().clamp(min=1) if divisor is None else divisor
    l1 = (predicted - wanted).abs().sum()
    return l1 / divisor, (1 - giou(corners(predicted), corners(wanted))).sum() / divisor
