"""Towers with rotary positions: timm's Eva, which is EVA-02, DINOv3 and the Perception Encoder.

Queries and keys of patches are turned by angles of their places, class and register tokens are not
(Su et al., arXiv 2104.09864; in two dimensions EVA-02, arXiv 2303.11331).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models import model_entrypoint
from timm.models.eva import Eva, EvaBlock
from torch import Tensor, nn

from sparc_pretrain.towers.overrides import check_overrides, timm_named

MODULE = "timm.models.eva"
# What may be said beside the arch: everything else is the arch's own.
ALLOWED = ("patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps", "global_pool")


def is_rotary(arch: str) -> bool:
    """Whether a timm name is one of timm's Eva."""
    return model_entrypoint(arch).__module__ == MODULE


def rotary_arguments(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of timm's Eva that `overrides` stand for. Raises ValueError for others."""
    check_overrides(overrides)
    if other := [name for name in overrides if name not in ALLOWED]:
        raise ValueError(
            f"vision.overrides.{other[0]}: towers with rotary positions take {', '.join(ALLOWED)} "
            "alone, the rest is their arch's"
        )
    return timm_named(overrides)


def check_rotary(net: nn.Module, arch: str) -> None:
    """Raises ValueError for an Eva of parts that a VisionTower does not run."""
    if not isinstance(net, Eva) or net.rope_mixed:
        raise ValueError(f"{arch}: angles of its own in each block are not read")
    if type(net.blocks[0]) is not EvaBlock:
        raise ValueError(f"{arch}: its blocks are {type(net.blocks[0]).__name__}, not EvaBlock")


def described(net: Eva) -> dict[str, Any]:
    """`overrides` that build `net` again on its own arch."""
    patch, size = net.patch_embed.patch_size, net.patch_embed.img_size
    if patch[0] != patch[1] or size[0] != size[1]:
        raise ValueError(f"patches {patch} and images {size} must be square")
    return {
        "patch_size": patch[0],
        "embed_dim": net.embed_dim,
        "depth": len(net.blocks),
        "num_heads": net.blocks[0].attn.num_heads,
        "global_pool": net.global_pool,
    }


def of_windows(rope: Tensor | None, h: int, w: int, window: int) -> Tensor | None:
    """Angles [h*w,C] of a grid -> [windows,window*window,C], by rows of windows. Each has those of
    its place: class and register tokens, which are not turned, see where a patch is. Places beyond
    the grid (padding) get its last.
    """
    if rope is None:
        return None
    rows, columns = -(-h // window), -(-w // window)
    grid = rope.unflatten(-2, (h, w))
    down = torch.arange(rows * window, device=rope.device).clamp(max=h - 1)
    right = torch.arange(columns * window, device=rope.device).clamp(max=w - 1)
    grid = grid[down][:, right]
    grid = grid.unflatten(0, (rows, window)).unflatten(2, (columns, window)).transpose(1, 2)
    return grid.reshape(rows * columns, window * window, -1)
