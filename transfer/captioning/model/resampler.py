"""Patches -> what a language model reads: the Perceiver resampler of Flamingo (arXiv 2204.14198,
sec. 3.1.1 and app. A.1.1), and the projector of LLaVA (arXiv 2304.08485).

Shapes: N images, F frames or crops of each, P patches, C channels of the backbone, L latents, D
width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attention(
    query_BTD: Tensor, key_BSD: Tensor, value_BSD: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention `softmax(q k^T / sqrt(d)) v` -> [B,T,D]; mask [B,T,S], True = seen."""
    query, key, value = (split(x, heads) for x in (query_BTD, key_BSD, value_BSD))
    mask = None if mask is None else mask[:, None]
    return (
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
    )


def attention_weights(
    query_BTD: Tensor, key_BSD: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """The weights inside `attention`, averaged over heads: [B,T,S]; rows sum to 1."""
    query, key = split(query_BTD, heads).float(), split(key_BSD, heads).float()
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return scores.softmax(-1).mean(1)


def split(x_BTD: Tensor, heads: int) -> Tensor:
    """[B,T,D] -> [B,heads,T,D/heads]."""
    return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)


def feed_forward(width: int, factor: int = 4) -> nn.Sequential:
    """Norm and a two-layer perceptron without biases, as in Flamingo."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, factor * width, bias=False),
        nn.GELU(),
        nn.Linear(factor * width, width, bias=False),
    )


class ResamplerLayer(nn.Module):
    """Latents look at patches and at each other, then think: one layer of the resampler."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_patches, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.feed_forward = feed_forward(width)

    def forward(
        self, latents_NLD: Tensor, patches_NSD: Tensor, seen: list[Tensor] | None = None
    ) -> Tensor:
        """latents [N,L,D], patches [N,S,D] -> latents; weights [N,L,S+L] are added to `seen`."""
        latents, patches = self.norm_latents(latents_NLD), self.norm_patches(patches_NSD)
        key, value = self.key_value(torch.cat([patches, latents], dim=1)).chunk(2, dim=-1)
        query = self.query(latents)
        if seen is not None:
            seen.append(attention_weights(query, key, self.heads))
        latents_NLD = latents_NLD + self.out(attention(query, key, value, self.heads))
        return latents_NLD + self.feed_forward(latents_NLD)


class PerceiverResampler(nn.Module):
    """Any number of patches -> always `latents` vectors per image.

    Args:
        channels: C of the patches. width: D of the latents. latents: how many, L.
        depth: layers. heads: of each attention; `width` must be a multiple.
        frames: the most frames or crops of one image; each has a learned embedding (patches bring
            their positions from the backbone).

    Raises ValueError for a width that the heads do not divide, and for more frames than `frames`.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        latents: int = 64,
        depth: int = 6,
        heads: int = 8,
        frames: int = 1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a resampler of width {width} cannot have {heads} heads")
        self.project = nn.Linear(channels, width)
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        self.time = nn.Parameter(torch.randn(frames, 1, width) * 0.02)
        self.layers = nn.ModuleList(ResamplerLayer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def no_weight_decay(self) -> set[str]:
        """The parameters that are no matrices, see `sparc_pretrain.engine.optim`."""
        return {"latents", "time"}

    def forward(self, patches_NFPC: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """[N,F,P,C] -> [N,L,D]; with `seen`, each layer adds its weights [N,L,F*P+L] to it."""
        frames = patches_NFPC.shape[1]
        if frames > len(self.time):
            raise ValueError(
                f"{frames} frames of an image, the resampler was built for {len(self.time)}: set"
                " bridge.frames"
            )
        patches = self.project(patches_NFPC.to(self.project.weight.dtype)) + self.time[:frames]
        patches = patches.flatten(1, 2)
        latents = self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            latents = layer(latents, patches, seen)
        return self.norm(latents)


class PatchProjector(nn.Module):
    """Patches, averaged to at most grid x grid per frame, through a perceptron, as LLaVA has it.

    Args: channels: C; width: D; grid: None = every patch.
    """

    def __init__(self, channels: int, width: int, grid: int | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.net = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, patches_NFPC: Tensor) -> Tensor:
        """[N,F,P,C], P patches of a square -> [N,L,D] with L = F * min(grid^2, P)."""
        side = round(patches_NFPC.shape[2] ** 0.5)
        if self.grid is not None and self.grid < side:
            if side * side != patches_NFPC.shape[2]:
                raise ValueError("a grid needs square images: set how='squash' or 'crop'")
            maps = patches_NFPC.unflatten(2, (side, side)).movedim(-1, 2).flatten(0, 1)
            maps = F.adaptive_avg_pool2d(maps, self.grid).flatten(2).mT
            patches_NFPC = maps.unflatten(0, patches_NFPC.shape[:2])
        return self.net(patches_NFPC.to(self.net[1].weight.dtype)).flatten(1, 2)
