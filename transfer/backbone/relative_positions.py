"""ViTDet's decomposed relative positions (arXiv 2203.16527, app. A; MViTv2, arXiv 2112.01526,
eq. 4): the logit of a query at row y, column x for a key at v, u gets q . R_h[y - v] and
q . R_w[x - u].
"""

from __future__ import annotations

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.towers.vision import VisionTower


class RelativePositions(nn.Module):
    """The tables R_h and R_w of one attention, [2 * size - 1, d] each, zero at first: a tower that
    was trained without them starts as it was.

    Args:
        width: d, of a head. size: side in patches of the square that the attention sees.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * size - 1, width))
        self.columns = nn.Parameter(torch.zeros(2 * size - 1, width))

    def forward(self, query_BHNd: Tensor, grid: tuple[int, int]) -> Tensor:
        """Queries of a grid's patches, N = h * w by rows -> what is added to logits, [B,H,N,N]."""
        h, w = grid
        query = query_BHNd.unflatten(2, (h, w))
        rows = torch.einsum("bnyxd,yvd->bnyxv", query, between(self.rows, h).to(query.dtype))
        columns = torch.einsum("bnyxd,xud->bnyxu", query, between(self.columns, w).to(query.dtype))
        return (rows[..., :, None] + columns[..., None, :]).flatten(4).flatten(2, 3)


def between(table: Tensor, length: int) -> Tensor:
    """[2 * size - 1, d] -> [length,length,d], entry (i, j) that of distance i - j; another length
    than `size` gets a table resampled linearly, as in ViTDet.
    """
    if len(table) != 2 * length - 1:
        table = F.interpolate(table.T[None], 2 * length - 1, mode="linear")[0].T
    place = torch.arange(length, device=table.device)
    return table[place[:, None] - place[None, :] + length - 1]


class RelativeAttention(Attention):
    """timm's attention with relative positions; prefix tokens (class, registers) have none.

    `relative` holds the tables, `grid` the rows and columns of patches of the next call.
    """

    relative: RelativePositions
    grid: tuple[int, int]

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """[B,N,D] -> [B,N,D]; without masks, which no plain ViT has."""
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        prefix = n - self.grid[0] * self.grid[1]
        bias = F.pad(self.relative(q[:, :, prefix:], self.grid), (prefix, 0, prefix, 0))
        dropped = self.attn_drop.p if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), dropped, scale=self.scale)
        found = self.norm(found.transpose(1, 2).reshape(b, n, self.attn_dim))
        return self.proj_drop(self.proj(found))


def add_relative_positions(
    tower: VisionTower, size: int, window: int, global_blocks: tuple[int, ...]
) -> None:
    """Gives every attention of `tower` relative positions, in place.

    Args:
        size: side in patches of the square that attention over the whole image sees in training.
        window, global_blocks: see `VisionTower.maps`.

    Raises:
        ValueError: attention of another kind than timm's plain one.
    """
    for i, block in enumerate(tower.net.blocks):
        attention = block.attn
        if type(attention) is not Attention or attention.gate is not None:
            raise ValueError(
                f"relative_positions: {type(attention).__name__} of {tower.arch} has positions or "
                "gates of its own"
            )
        local = bool(window) and i not in global_blocks
        attention.__class__ = RelativeAttention  # its weights keep their names
        attention.relative = RelativePositions(attention.head_dim, window if local else size)
        attention.grid = (window, window) if local else (size, size)
        attention.local = local


def tell_grid(tower: VisionTower, grid: tuple[int, int]) -> None:
    """What the attentions over the whole image will see next: rows and columns of patches."""
    for block in tower.net.blocks:
        if not block.attn.local:
            block.attn.grid = grid
