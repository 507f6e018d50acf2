"""DINOv3 of transformers -> VisionTower (Siméoni et al., arXiv 2508.10104): rotary positions, four
registers, biases of queries and values but not of keys.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import is_model
from torch import Tensor

from sparc_pretrain.convert import layout
from sparc_pretrain.convert.parts import load
from sparc_pretrain.towers.vision import VisionTower

KIND = "dinov3_vit"
THETA = 100.0  # of the arch's angles
REGISTERS = 4


def dinov3_tower(weights: dict[str, Tensor], config: Any, name: str) -> VisionTower:
    """The tower of transformers' DINOv3ViTModel.

    Raises:
        ValueError: a part that timm's arch does not have, or weights that do not fit.
    """
    weights = {key.removeprefix("model."): value for key, value in weights.items()}
    width, depth = config.hidden_size, config.num_hidden_layers
    gated = config.use_gated_mlp
    wrong = {
        "num_register_tokens": (config.num_register_tokens, REGISTERS),
        "rope_theta": (config.rope_theta, THETA),
        "hidden_act": (config.hidden_act, "silu" if gated else "gelu"),
        "key_bias": (config.key_bias, False),
        "value_bias": (config.value_bias, config.query_bias),
    }
    for key, (found, wanted) in wrong.items():
        if found != wanted:
            raise ValueError(f"{name}: {key} is {found!r}; converted is {wanted!r}")
    side = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    hidden = weights["layer.0.mlp.up_proj.weight"].shape[0]
    overrides = {
        "patch_size": config.patch_size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": layout.ratio(hidden, width),
        "norm_eps": config.layer_norm_eps,
        "global_pool": "token",
    }
    tower = VisionTower(arch(width, depth, gated, config.query_bias), side, overrides=overrides)
    load(tower.net, renamed(weights, depth, gated), name, "report it")
    return tower.eval()


def arch(width: int, depth: int, gated: bool, biased: bool) -> str:
    """timm's name nearest to a tower, with the parts that overrides do not say."""
    plus = "_plus" if gated else ""
    end = f"{plus}_patch16_dinov3{'_qkvb' if biased else ''}"
    exact = f"vit_{layout.SIZES.get((width, depth), 'small')}{end}"
    return exact if is_model(exact) else f"vit_small{end}"


def renamed(weights: dict[str, Tensor], depth: int, gated: bool) -> dict[str, Tensor]:
    """transformers' weights under timm's names."""
    found = {
        "cls_token": weights["embeddings.cls_token"],
        "reg_token": weights["embeddings.register_tokens"],
    }
    pairs = [("patch_embed.proj", "embeddings.patch_embeddings"), ("norm", "norm")]
    mlp = (
        [("fc1_g", "gate_proj"), ("fc1_x", "up_proj"), ("fc2", "down_proj")]
        if gated
        else [("fc1", "up_proj"), ("fc2", "down_proj")]
    )
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", f"layer.{i}."
        parts = [("norm1", "norm1"), ("norm2", "norm2"), ("attn.proj", "attention.o_proj")]
        parts += [(f"mlp.{a}", f"mlp.{b}") for a, b in mlp]
        pairs += [(ours + a, theirs + b) for a, b in parts]
        attention = f"{theirs}attention."
        found[f"{ours}attn.qkv.weight"] = torch.cat(
            [weights[f"{attention}{letter}_proj.weight"] for letter in "qkv"]
        )
        for letter in "qv":
            if (bias := weights.get(f"{attention}{letter}_proj.bias")) is not None:
                found[f"{ours}attn.{letter}_bias"] = bias
        for n in "12":
            found[f"{ours}gamma_{n}"] = weights[f"{theirs}layer_scale{n}.lambda1"]
    for ours, theirs in pairs:
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" in weights:
                found[f"{ours}.{part}"] = weights[f"{theirs}.{part}"]
    return found
