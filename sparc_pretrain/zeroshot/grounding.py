"""Phrase grounding from the similarities of tokens and patches: where does a phrase point to, which
box does it draw, which patches does a word light up.

Suffixes: T tokens, P patches, N boxes, h w the patch grid, H W pixels. An image is squashed to a
square, so patch (r,c) of the grid is that cell of the photo.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.data.sets.phrases import box_mask

LEVEL = 0.5  # of a heat's range: patches above it are what the phrase selects
IOU = 0.5  # of a box that counts as found
FLAT = 1e-9  # a heat whose range is not above it prefers no patch
METRICS = ("pointing", "box_recall", "box_IoU")


def hit_patches(boxes: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The patches [h,w] bool whose centre lies in one of boxes [N,4] (x0 y0 x1 y1, pixels).

    Args: grid: (h, w). size: (H, W) of the photo.
    """
    (h, w), (height, width) = grid, size
    y = (torch.arange(h, dtype=boxes.dtype) + 0.5) * height / h
    x = (torch.arange(w, dtype=boxes.dtype) + 0.5) * width / w
    across = (x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])
    down = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])
    return (down[:, :, None] & across[:, None, :]).any(dim=0)


def pointing(heat: Tensor, hits: Tensor) -> float:
    """1 when the hottest patch of heat [h,w] is one of hits [h,w] bool, else 0 (the pointing game).

    Of several equally hot patches one is drawn at random: the value is the share of them that hit,
    so a constant heat has exactly a random patch's chance.
    """
    hottest = heat == heat.max()
    return hits[hottest].double().mean().item()


def selected(heat: Tensor, level: float = LEVEL) -> Tensor:
    """The patches [h,w] bool at or above `level` of the heat's range; none of a flat heat."""
    low, high = heat.min(), heat.max()
    if high - low <= FLAT:
        return torch.zeros_like(heat, dtype=torch.bool)
    return (heat - low) / (high - low) >= level


def peak_box(heat: Tensor, size: tuple[int, int], level: float = LEVEL) -> Tensor | None:
    """The box [4] (x0 y0 x1 y1, pixels) round the selected patches that hang together with the
    hottest (the first of equals), side by side; None of a flat heat.
    """
    chosen = selected(heat, level)
    if not chosen.any():
        return None
    _, piece_hw = cv2.connectedComponents(chosen.numpy().astype(np.uint8), connectivity=4)
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    rows, columns = np.nonzero(piece_hw == piece_hw[row, column])
    (height, width), (h, w) = size, heat.shape
    corners = (columns.min() / w, rows.min() / h, (columns.max() + 1) / w, (rows.max() + 1) / h)
    return torch.tensor(corners, dtype=torch.float64) * torch.tensor([width, height] * 2)


def union_box(boxes: Tensor) -> Tensor:
    """One box [4] round boxes [N,4]: how Flickr30k Entities scores phrases with several."""
    return torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)])


def box_iou(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two boxes [4] (x0 y0 x1 y1)."""
    low, high = torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])
    common = (high - low).clamp(min=0).prod()
    area = sum((box[2:] - box[:2]).prod() for box in (one, other))
    return (common / (area - common)).item()


def covered_patches(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The patches [h,w] bool of which mask [H,W] bool covers at least half; of a mask that covers
    half of none, those it covers most.
    """
    share = F.adaptive_avg_pool2d(mask[None].float(), grid)[0]
    return share >= min(0.5, share.max().item())


def mask_iou(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two masks [h,w] bool; 0 when both are empty."""
    union = (one | other).sum().item()
    return (one & other).sum().item() / union if union else 0.0


def phrase_values(heat: Tensor, boxes: Tensor, size: tuple[int, int]) -> dict[str, float]:
    """METRICS of one phrase: `box_IoU` of its drawn box with the union of its boxes, `box_recall` 1
    when that reaches 0.5.
    """
    box = peak_box(heat, size)
    iou = 0.0 if box is None else box_iou(box, union_box(boxes))
    return {
        "pointing": pointing(heat, hit_patches(boxes, tuple(heat.shape), size)),
        "box_recall": float(iou >= IOU),
        "box_IoU": iou,
    }


def chance_values(boxes: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> dict[str, float]:
    """What one gets without looking: the photo's centre, a random patch or pixel, the whole photo.

    Returns:
        ``chance_centre_pointing``, ``chance_random_patch_pointing``, ``chance_box_area`` (share of
        the photo that the boxes cover), ``chance_whole_image_box_recall`` and ``_box_IoU``.
    """
    height, width = size
    middle = torch.tensor([width / 2, height / 2], dtype=boxes.dtype)
    inside = (boxes[:, :2] <= middle) & (middle < boxes[:, 2:])
    whole = torch.tensor([0, 0, width, height], dtype=boxes.dtype)
    iou = box_iou(whole, union_box(boxes))
    return {
        "chance_centre_pointing": float(inside.all(dim=1).any()),
        "chance_random_patch_pointing": hit_patches(boxes, grid, size).double().mean().item(),
        "chance_box_area": box_mask(boxes, *size).double().mean().item(),
        "chance_whole_image_box_recall": float(iou >= IOU),
        "chance_whole_image_box_IoU": iou,
    }
