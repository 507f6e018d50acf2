"""Where the learned position embeddings of a vision tower start."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed

STARTS = ("normal", "sincos")


@torch.no_grad()
def start_positions(net: Any, start: str) -> None:
    """Set the position embeddings of a timm ViT to `start`, in place; they are learned from there.

    'normal' leaves timm's deviation of .02. Embedded patches begin with one of about .6, so the
    states of a short training hardly say where a patch lies. 'sincos' starts from sines and cosines
    of row and column, root mean square .7 (MoCo v3, arXiv 2104.02057; ViT baselines, arXiv
    2205.01580), and zeros for class and register tokens.

    Raises:
        ValueError: another name, a tower without learned positions, or a width that 4 does not
            divide.
    """
    if start not in STARTS:
        raise ValueError(f"pos_embed_init={start!r} is none of {list(STARTS)}")
    if start == "normal":
        return
    if getattr(net, "pos_embed", None) is None:
        raise ValueError("pos_embed_init='sincos': this tower learns no position embeddings")
    if net.embed_dim % 4:
        raise ValueError(f"pos_embed_init='sincos': 4 does not divide the width {net.embed_dim}")
    grid = list(net.patch_embed.grid_size)
    codes = build_sincos2d_pos_embed(grid, net.embed_dim, interleave_sin_cos=True)
    prefix = net.pos_embed.shape[1] - codes.shape[0]
    net.pos_embed.zero_()
    net.pos_embed[0, prefix:] = codes
