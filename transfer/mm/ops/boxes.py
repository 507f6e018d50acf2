"""Suppression of boxes and lanes for the stand-in of ``mmcv._ext``.

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
    # Of equal scores mmcv takes first what an unstable sort puts first, torchvision the lower
    # index. Sorted here as in mmcv, with ranks for scores, so that both keep the same one.
    order = scores.sort(0, descending=True).indices
    ranks = torch.arange(len(order), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return order[torch.ops.torchvision.nms(boxes[order], ranks, threshold)]


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


def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> list[Tensor]:
    """Greedy suppression of lanes ``boxes [R, 5 + D]`` (two logits, start y in 0..1, start x,
    length in rows, then the x at each of D rows; Zheng et al. 2022, CLRNet): a lane nearer than
    ``thresh`` on average to a better one goes.

    Returns ``keep [R]`` long (indices by falling score, then zeros), how many of them count (at
    most ``top_k``), and ``parent [R]``: 1 + the place in ``keep`` of the last kept lane that is
    near, or 0. mmcv's kernel compares the i-th lane as given with those that follow in the order of
    scores, so the two agree where the lanes come sorted; this one sorts both.
    """
    table = widen(boxes).cpu().numpy()
    order = scores.sort(dim=0, descending=True).indices.cpu().numpy()
    keep, parent = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
    alive, kept = np.ones(len(table), bool), 0
    for place, index in enumerate(order):
        if not alive[place] or kept == top_k:
            continue
        keep[kept] = index
        kept += 1
        near = _lanes_near(table[index], table[order[place + 1 :]], thresh)
        alive[place + 1 :] &= ~near
        parent[order[place + 1 :][near]] = kept
        parent[index] = kept
    return [torch.from_numpy(part).to(boxes.device) for part in (keep, np.array(kept), parent)]


def _lanes_near(lane: np.ndarray, others: np.ndarray, thresh: float) -> np.ndarray:
    """Whether each of ``others [R, 5 + D]`` has a mean distance below ``thresh`` from ``lane`` over
    the rows that both have; without such rows, not.
    """
    rows = np.arange(len(lane) - 5)
    # Rounded and cut off as in C, where a cast to int goes towards zero.
    first = np.trunc(np.append(others[:, 2], lane[2]) * (len(rows) - 1) + 0.5)
    last = first + np.trunc(np.append(others[:, 4], lane[4])) - 1
    first, last = np.maximum(first[:-1], first[-1]), np.minimum(last[:-1], last[-1])
    last = np.minimum(last, len(rows) - 1)
    shared = (rows >= first[:, None]) & (rows <= last[:, None])
    distance = (np.abs(others[:, 5:] - lane[5:]) * shared).sum(1)
    common = last - first + 1
    return (common > 0) & (first >= 0) & (distance < thresh * common)


KERNELS = (nms, softnms, nms_match, line_nms_forward)
