"""Attention in windows of a map (ViTDet, arXiv 2203.16527)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def windowed(
    block: nn.Module, x: Tensor, h: int, w: int, window: int, rope: Tensor | None = None
) -> Tensor:
    """A timm block whose attention sees windows of `window` x `window` patches; x [B,N+h*w,D] ->
    the same.

    The map is padded after the norm with zeros at the right and bottom, as in ViTDet. The N prefix
    tokens are read and updated in every window; their updates are averaged over windows, so one
    window over the whole map is global attention for them as well. rope: angles of rotary
    positions, [windows,window*window,C].
    """
    b, d = x.shape[0], x.shape[2]
    n = x.shape[1] - h * w
    y = block.norm1(x)
    first, y = y[:, :n], y[:, n:].reshape(b, h, w, d)
    down, right = -h % window, -w % window
    y = F.pad(y, (0, 0, 0, right, 0, down))
    rows, columns = (h + down) // window, (w + right) // window
    y = y.reshape(b, rows, window, columns, window, d).transpose(2, 3)
    y = y.reshape(-1, window * window, d)
    if n:
        y = torch.cat([first.repeat_interleave(rows * columns, dim=0), y], dim=1)
    y = block.attn(y) if rope is None else block.attn(y, rope.repeat(b, 1, 1)[:, None])
    first = y[:, :n].reshape(b, rows * columns, n, d).mean(dim=1)
    y = y[:, n:].reshape(b, rows, columns, window, window, d).transpose(2, 3)
    y = y.reshape(b, h + down, w + right, d)[:, :h, :w].reshape(b, h * w, d)
    y = torch.cat([first, y], dim=1) if n else y
    x = x + block.drop_path1(_scaled(block, 1, y))
    return x + block.drop_path2(_scaled(block, 2, block.mlp(block.norm2(x))))


def _scaled(block: nn.Module, which: int, x: Tensor) -> Tensor:
    """`x` through the block's layer scale: a module of a ViT's, a parameter or None of an Eva's."""
    scale = getattr(block, f"ls{which}", None)
    if scale is not None:
        return scale(x)
    gamma = getattr(block, f"gamma_{which}")
    return x if gamma is None else gamma * x
