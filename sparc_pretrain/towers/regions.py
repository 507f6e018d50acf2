"""Boxes on a tower's grid of patch states: which cells they cover, and the states inside.

Suffixes: B images, P patches (h*w), K or R boxes, D channels. Boxes are x0 y0 x1 y1 in 0..1.
"""

from __future__ import annotations

import math

import torch
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor
from torchvision.ops import roi_align

EDGE = 1e-4  # sides of a cell: boxes in float32 do not hit a border exactly


def _covered(low: Tensor, high: Tensor, count: int) -> Tensor:
    """[...,count] bool: the cells of one axis from the one that holds `low` to that of `high`."""
    first = (low.double() * count + EDGE).floor().clamp(0, count - 1)[..., None]
    end = torch.maximum((high.double() * count - EDGE).ceil()[..., None], first + 1)
    cell = torch.arange(count, device=low.device)
    return (cell >= first) & (cell < end)


def box_cells(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """The cells that boxes [...,4] touch -> [...,h*w] bool: columns floor(x0 w) to ceil(x1 w), rows
    alike, at least one, inside the grid (h, w).
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    rows, columns = _covered(y0, y1, grid[0]), _covered(x0, x1, grid[1])
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)


def pool_cells(states: Tensor, cells: Tensor) -> Tensor:
    """Mean of states [B,P,D] over cells [B,K,P] bool -> [B,K,D]; 0 of no cell."""
    weight = cells.to(states.dtype)
    return weight @ states / weight.sum(dim=-1, keepdim=True).clamp(min=1)


def in_cells(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Boxes [...,4], x0 y0 x1 y1 in 0..1, in cells of a grid (h, w)."""
    h, w = grid
    return torch.stack([boxes[..., n] * (h if n % 2 else w) for n in range(4)], dim=-1)


def region_states(states: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean of states [B,P,D] inside boxes [B,R,4] -> [B,R,D], by RoIAlign (Mask R-CNN, arXiv
    1703.06870): one bin, bilinear samples, as many along each side as it has cells, rounded up.
    """
    h, w = grid
    maps = states.transpose(1, 2).unflatten(2, (h, w))
    if states.dtype in (torch.float16, torch.bfloat16):  # roi_align knows no bfloat16
        maps = maps.float()
    scaled = in_cells(boxes.to(maps.dtype), grid)
    border = scaled.round()  # rounding must not add a sample to a box of whole cells
    scaled = torch.where((scaled - border).abs() < EDGE, border, scaled)
    pooled = roi_align(maps, list(scaled), output_size=1, aligned=True)
    return pooled.flatten(1).unflatten(0, boxes.shape[:2]).to(states.dtype)


def geometry(boxes: Tensor) -> Tensor:
    """[...,4] -> [...,7]: x0 y0 x1 y1 w h w*h (UNITER, arXiv 1909.11740, sec. 3.1)."""
    side = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes, side, side.prod(dim=-1, keepdim=True)], dim=-1)


def places_of(patches: Tensor) -> Tensor:
    """The sine-cosine code [S,Di] of where patches [I,S,Di] of square images are (as in MAE)."""
    side, width = math.isqrt(patches.shape[1]), patches.shape[2]
    code = build_sincos2d_pos_embed([side, side], width, device=patches.device)
    return code.to(patches.dtype)
