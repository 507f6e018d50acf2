"""Suppression of boxes for the stand-in of ``mmcv._ext``.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Half types are computed in float32.
"""

from __future__ import annotations

import numpy as np
import torch
import torchvision  # noqa: F401  (its import registers torch.ops.torchvision)
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """Returns ``tensor`` in float32 if it is narrower (torchvision's CPU kernels know no half
    types).
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy suppression: kept indices ``[K]`` long, by falling score, of ``boxes [R,4]``; width is
    x2 - x1 + offset.
    """
    boxes = widen(boxes)
    if offset:
        boxes = boxes + boxes.new_tensor([0.0, 0.0, offset, offset])
    # torchvision compares in double, mmcv in the boxes' own type: 0.6f > 0.6 must not suppress.
    threshold = torch.tensor(iou_threshold, dtype=boxes.dtype).item()
    return torch.ops.torchvision.nms(boxes, scores.to(boxes.dtype), threshold)


def _overlaps(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    """IoU ``[R]`` of ``box [4]`` with ``others [R,4]``; 0/0 is NaN and so never above a threshold,
    as in C.
    """
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + offset
    shared = np.clip(sides, 0, None).prod(1)
    areas = (others[:, 2:] - others[:, :2] + offset).prod(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return shared / ((box[2:] - box[:2] + offset).prod() + areas - shared)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft suppression (Bodla et al. 2017); ``method`` 0 naive, 1 linear, 2 Gaussian.

    Writes the K kept boxes with their decayed scores into ``dets [R,5]`` and returns their indices
    ``[K]`` long, in the order of mmcv's kernel, ties included: a dropped box gives its place to the
    last one.
    """
    table = torch.cat([widen(boxes), widen(scores)[:, None]], 1).cpu().numpy().copy()
    index = np.arange(len(table))
    threshold, width = table.dtype.type(iou_threshold), table.dtype.type(sigma)
    alive, first = len(table), 0
    while first < alive:
        best = first + int(table[first:alive, 4].argmax())
        table[[first, best]] = table[[best, first]]
        index[[first, best]] = index[[best, first]]
        rest = table[first + 1 : alive]
        overlap = _overlaps(table[first, :4], rest[:, :4], offset)
        if method == 2:
            rest[:, 4] *= np.exp(-(overlap * overlap) / width)
        else:
            rest[:, 4] *= np.where(overlap >= threshold, 1 - overlap if method == 1 else 0, 1)
        first += 1
        doomed = np.append(np.zeros(first, bool), rest[:, 4] < min_score)
        for place in np.flatnonzero(doomed):
            while alive > place and doomed[alive - 1]:
                alive -= 1
            if alive <= place:
                break
            alive -= 1
            table[place], index[place] = table[alive], index[alive]
    dets[:alive] = torch.from_numpy(table[:alive])
    return torch.from_numpy(index[:alive])


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices of ``dets [R,5]``: a kept box, then the boxes it suppresses (IoU >=
    threshold), by falling score.
    """
    table = widen(dets).cpu().numpy()
    waiting = torch.from_numpy(table[:, 4]).sort(descending=True).indices.numpy()
    threshold, groups = table.dtype.type(iou_threshold), []
    while len(waiting):
        kept, waiting = waiting[0], waiting[1:]
        taken = _overlaps(table[kept, :4], table[waiting, :4], 0) >= threshold
        groups.append([int(kept), *waiting[taken].tolist()])
        waiting = waiting[~taken]
    return groups


KERNELS = (nms, softnms, nms_match)
