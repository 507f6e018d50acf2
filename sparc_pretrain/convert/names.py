"""Which weights of timm's VisionTransformer are which of transformers' vision towers.

One table, read in both directions; a timm weight made of several (qkv) is their concatenation along
the first axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Table = dict[str, tuple[str, ...]]  # timm's name -> transformers' names


@dataclass(frozen=True)
class Family:
    """transformers' names of the parts of a block and of what is around the blocks."""

    block: str
    norm1: str
    qkv: tuple[str, str, str]
    proj: str
    norm2: str
    norm: str
    patch: str
    norm_pre: str = ""
    scales: tuple[str, str] = ("", "")


_CLIP_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_DINO_QKV = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
_CLIP = ("encoder.layers.{}.", "layer_norm1", _CLIP_QKV, "self_attn.out_proj", "layer_norm2")
_PATCH = "embeddings.patch_embeddings.projection"
_DINO = Family(
    "encoder.layer.{}.", "norm1", _DINO_QKV, "attention.o_proj", "norm2", "layernorm", _PATCH,
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)  # fmt: skip
FAMILIES = {
    "clip": Family(
        *_CLIP, "post_layernorm", "embeddings.patch_embedding", norm_pre="pre_layrnorm"
    ),
    "siglip": Family(*_CLIP, "post_layernorm", "embeddings.patch_embedding"),
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "vit": Family(
        "layers.{}.", "layernorm_before", _DINO_QKV, "attention.o_proj", "layernorm_after",
        "layernorm", _PATCH,
    ),
}  # fmt: skip


def table(kind: str, depth: int, swiglu: bool = False) -> Table:
    """The weights that only change their name (or are concatenated) in a tower of `kind`; tokens,
    positions and the attention pool are done by hand.
    """
    family = FAMILIES[kind]
    pairs: Table = {}

    def both(ours: str, *theirs: str) -> None:
        for part in ("weight", "bias"):
            pairs[f"{ours}.{part}"] = tuple(f"{name}.{part}" for name in theirs)

    both("patch_embed.proj", family.patch)
    both("norm", family.norm)
    if family.norm_pre:
        both("norm_pre", family.norm_pre)
    mlp = (("fc1",), ("fc2",)) if not swiglu else (("gate_proj", "up_proj"), ("down_proj",))
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", family.block.format(i)
        both(f"{ours}norm1", theirs + family.norm1)
        both(f"{ours}attn.qkv", *(theirs + name for name in family.qkv))
        both(f"{ours}attn.proj", theirs + family.proj)
        both(f"{ours}norm2", theirs + family.norm2)
        for name, other in zip(("fc1", "fc2"), mlp, strict=True):
            both(f"{ours}mlp.{name}", *(f"{theirs}mlp.{part}" for part in other))
        for name, other in zip(("ls1", "ls2"), family.scales, strict=True):
            if other:
                pairs[f"{ours}{name}.gamma"] = (theirs + other,)
    if kind == "siglip":
        both("attn_pool.proj", "head.attention.out_proj")
        both("attn_pool.norm", "head.layernorm")
        both("attn_pool.mlp.fc1", "head.mlp.fc1")
        both("attn_pool.mlp.fc2", "head.mlp.fc2")
    return pairs


def to_timm(weights: Mapping[str, Tensor], pairs: Table) -> dict[str, Tensor]:
    """transformers' weights under timm's names; those that are not there are left out (a bias, the
    pool).
    """
    found = {}
    for ours, theirs in pairs.items():
        parts = [weights[name] for name in theirs if name in weights]
        if len(parts) == len(theirs):
            found[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return found


def from_timm(weights: Mapping[str, Tensor], pairs: Table) -> dict[str, Tensor]:
    """The way back."""
    found = {}
    for ours, theirs in pairs.items():
        if ours in weights:
            found.update(zip(theirs, weights[ours].chunk(len(theirs)), strict=True))
    return {k: v.contiguous() for k, v in found.items()}
