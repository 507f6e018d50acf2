"""The arguments of timm's VisionTransformer that describe a given Vision Transformer."""

from __future__ import annotations

from typing import Any

from timm.layers import AttentionPoolLatent, GluMlp, LayerNorm, LayerScale, Mlp, PatchEmbed
from timm.models import is_model
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import nn

ACTIVATIONS = {  # class of the activation -> timm's name
    "GELU": "gelu",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "QuickGELU": "quick_gelu",
    "QuickGELUActivation": "quick_gelu",
    "SiLU": "silu",
    "ReLU": "relu",
}
FROM_TRANSFORMERS = {  # `hidden_act` of transformers -> timm's name
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "relu": "relu",
}
TO_TRANSFORMERS = {"gelu_tanh": "gelu_pytorch_tanh"}  # where the names differ
SIZES = {  # (width, depth) -> the size in timm's names
    (192, 12): "tiny",
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1152, 27): "so400m",
    (1280, 32): "huge",
    (1536, 40): "giant",
    (1408, 40): "giant",
    (1664, 48): "gigantic",
}
SMALLEST = "vit_base_patch16_224"  # plain arguments, all of which can be overridden


def activation(module: nn.Module) -> str:
    """timm's name of an activation module.

    Raises:
        ValueError: an activation that is not known to have an equal in timm.
    """
    name = type(module).__name__
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return "gelu_tanh"
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name}: not one of {sorted(set(ACTIVATIONS.values()))}")
    return ACTIVATIONS[name]


def ratio(hidden: int, width: int) -> float:
    """The mlp_ratio with which timm's int(width * ratio) is `hidden`."""
    exact = hidden / width
    return exact if int(width * exact) == hidden else (hidden + 0.5) / width


def arch_name(family: str, width: int, depth: int, patch: int, img_size: int) -> str:
    """The timm name nearest to a tower (family: e.g. 'clip'), for people; overrides are exact."""
    size = SIZES.get((width, depth), "base")
    stem = f"vit_{size}_patch{patch}"
    names = [f"{stem}_{family}_{img_size}", f"{stem}_{family}", f"{stem}_{img_size}"]
    return next((n for n in names if is_model(n)), SMALLEST)


def arguments(net: VisionTransformer) -> dict[str, Any]:
    """Arguments (JSON values) that build `net` again on any plain timm arch; see `VisionTower`.

    Raises:
        ValueError: a part that VisionTower cannot be told to build, named.
    """
    _plain(net, VisionTransformer)
    block, embed = net.blocks[0], net.patch_embed
    _plain(block, Block)
    attention, mlp = block.attn, block.mlp
    _plain(attention, Attention)
    _plain(mlp, Mlp, GluMlp)
    _plain(embed, PatchEmbed)
    if net.attn_pool is not None:
        _plain(net.attn_pool, AttentionPoolLatent)
    norms = [m for m in net.modules() if "norm" in type(m).__name__.lower()]
    foreign = [type(m).__name__ for m in norms if not isinstance(m, (nn.LayerNorm, LayerNorm))]
    epsilons = {m.eps for m in norms if not foreign}
    if foreign or len(epsilons) != 1:
        raise ValueError(f"norms {sorted({*foreign})} with epsilons {epsilons}: layer norms only")
    patch, size = embed.patch_size, embed.img_size
    if size is None or patch[0] != patch[1] or size[0] != size[1]:
        raise ValueError(f"patches {patch} and images {size} must be square")
    described = {
        "patch_size": patch[0],
        "embed_dim": net.embed_dim,
        "depth": len(net.blocks),
        "num_heads": attention.num_heads,
        "mlp_ratio": ratio(mlp.fc1.out_features, net.embed_dim),
        "qkv_bias": attention.qkv.bias is not None,
        "qk_norm": not isinstance(attention.q_norm, nn.Identity),
        "proj_bias": attention.proj.bias is not None,
        "init_values": 1e-5 if isinstance(block.ls1, LayerScale) else None,
        "class_token": net.has_class_token,
        "reg_tokens": net.num_reg_tokens,
        "no_embed_class": net.no_embed_class,
        "pre_norm": not isinstance(net.norm_pre, nn.Identity),
        "fc_norm": not isinstance(net.fc_norm, nn.Identity),
        "pool_include_prefix": net.pool_include_prefix,
        "global_pool": net.global_pool,
        "act_layer": activation(mlp.act),
        "norm_eps": epsilons.pop(),
    }
    if isinstance(mlp, GluMlp):
        if mlp.gate_last:
            raise ValueError("GluMlp with its gate last: only SwiGLUPacked is supported")
        described["mlp_layer"] = "swiglu_packed"
    if not described["fc_norm"] and isinstance(net.norm, nn.Identity):
        described["final_norm"] = False
    if net.pos_embed is None:
        described["pos_embed"] = "none"
    if (embed.proj.bias is None) != described["pre_norm"]:
        raise ValueError("a patch bias with a pre-norm, or neither: not a tower that timm builds")
    # timm prunes arguments that are None, and archs set few of these: leave the plain ones out
    plain = {"qk_norm": False, "proj_bias": True, "pool_include_prefix": False}
    return {k: v for k, v in described.items() if k not in plain or v != plain[k]}


def _plain(part: nn.Module, *kinds: type) -> None:
    if type(part) not in kinds:
        raise ValueError(f"{type(part).__name__} is not a part of a plain Vision Transformer")
