"""Pictures as patches of five levels (Kaleido-BERT's KPG), and what is done to them.

Suffixes: B images, 55 patches: 1 + 4 + 9 + 16 + 25, level by level, row by row. Boxes are x0 y0 x1
y1 in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from sparc_pretrain.towers.regions import in_cells

LEVELS = 5
SLICES = [
    slice(sum(i * i for i in range(n)), sum(i * i for i in range(n + 1))) for n in range(1, 6)
]
ORDERS = tuple(permutations(range(4)))  # of jigsaw, in lexicographic order
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
CELLS = 8  # a side, of the mean colours of a patch
COLOURS = 3 * CELLS**2


def _sent(numbers: Sequence, device: torch.device) -> Tensor:
    return torch.tensor(numbers).to(device, non_blocking=True)  # does not wait for earlier work


def patch_boxes(region: Tensor, levels: int = LEVELS) -> tuple[Tensor, Tensor]:
    """The patches of regions [B,4]: boxes [B,55,4], and their level, 1 to 5, [55] long: level n
    divides a region into n x n cells (arXiv 2103.16110, sec. 3.1).
    """
    boxes, number = [], []
    low, side = region[:, None, :2], region[:, None, 2:] - region[:, None, :2]
    for n in range(1, levels + 1):
        edge = torch.arange(n, device=region.device)
        y, x = torch.meshgrid(edge, edge, indexing="ij")
        cell = torch.stack([x, y], dim=-1).flatten(0, 1).to(region.dtype)
        boxes.append(torch.cat([low + cell / n * side, low + (cell + 1) / n * side], dim=-1))
        number += [n] * n * n
    return torch.cat(boxes, dim=1), _sent(number, region.device)


def patch_geometry(boxes: Tensor) -> Tensor:
    """[...,4] -> [...,5]: x0 x1 y0 y1 w*h."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([x0, x1, y0, y1, (x1 - x0) * (y1 - y0)], dim=-1)


def cut_out(image: Tensor, boxes: Tensor, side: int) -> Tensor:
    """The pixels in boxes [B,n,4] of images [B,C,H,W], resized to squares [B,n,C,side,side] of the
    same type (RoIAlign: bilinear, aligned).
    """
    height, width = image.shape[-2:]
    pixels = image if image.is_floating_point() else image.float()
    scaled = in_cells(boxes.to(pixels.dtype), (height, width))
    found = roi_align(pixels, list(scaled), output_size=side, aligned=True)
    found = found if image.is_floating_point() else found.round().clamp(0, 255)
    return found.to(image.dtype).unflatten(0, boxes.shape[:2])


def colours(pixels: Tensor) -> Tensor:
    """Patches [B,n,3,s,s] -> the mean colours of their 8 x 8 cells [B,n,192], bytes as 0..1."""
    whole = pixels if pixels.is_floating_point() else pixels.float() / 255
    means = F.adaptive_avg_pool2d(whole.flatten(0, 1), CELLS)
    return means.flatten(1).unflatten(0, pixels.shape[:2])


def level_side(level: int, size: int, patch: int) -> int:
    """Pixels a side at which patches of a level are read, of images of `size`: the nearest multiple
    of the tower's patch to their own, at least two of these.
    """
    return size if level == 1 else max(2, int(size / level / patch + 0.5)) * patch


def rotate(pixels: Tensor, turns: Tensor) -> Tensor:
    """Pixels [B,C,s,s] turned by `turns` [B] quarters, counter-clockwise."""
    every = torch.stack([torch.rot90(pixels, n, (-2, -1)) for n in range(4)])
    return every[turns, torch.arange(len(pixels), device=pixels.device)]


def shuffle(patches: Tensor, label: Tensor) -> Tensor:
    """Patches [B,4,...] in the order number `label` [B] of the 24: new[s] = old[order[s]]."""
    order = _sent(ORDERS, label.device)[label]
    return patches[torch.arange(len(patches), device=label.device)[:, None], order]


def swap(patches: Tensor, donors: Tensor, place: Tensor) -> Tensor:
    """Patches [B,9,...] with the one at `place` [B] from the donors [B,9,...]; -1 = none."""
    number = torch.arange(patches.shape[1], device=place.device)
    there = (number == place[:, None]).view(*patches.shape[:2], *[1] * (patches.ndim - 2))
    return torch.where(there, donors, patches)


def grey(pixels: Tensor) -> Tensor:
    """Pixels [...,3,h,w] without colour: their luma (Rec. 601) in all three channels."""
    whole = pixels if pixels.is_floating_point() else pixels.float()
    luma = sum(weight * part for weight, part in zip(LUMA, whole.unbind(-3), strict=True))
    luma = luma.unsqueeze(-3).expand_as(pixels)
    return luma if pixels.is_floating_point() else luma.round().clamp(0, 255).to(pixels.dtype)


def greyed(patches: Tensor, chosen: Tensor) -> Tensor:
    """Patches [B,n,3,s,s] of which the chosen [B,n] are grey."""
    return torch.where(chosen[..., None, None, None], grey(patches), patches)


def picked(x: Tensor, chosen: Tensor, count: int) -> Tensor:
    """x [B,n,...] -> [B,count,...]: the chosen ones [B,n], `count` in each row, in their order."""
    order = (~chosen).byte().argsort(dim=1, stable=True)[:, :count]
    return x[torch.arange(len(x), device=x.device)[:, None], order]
