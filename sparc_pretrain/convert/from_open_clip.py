"""open_clip's models -> Parts: its own ViT or a timm trunk, its own text transformer."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from sparc_pretrain.convert import layout
from sparc_pretrain.convert.from_timm import tower_of
from sparc_pretrain.convert.parts import Parts, load
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.towers.text import TextStyle, TextTower
from sparc_pretrain.towers.vision import VisionTower

CLIP_WORDS = 49408  # ids of open_clip's own tokenizer


def from_open_clip(model: nn.Module, name: str, vision_only: bool = False) -> Parts:
    """An open_clip CLIP or CustomTextCLIP model.

    Args:
        model: with its weights. name: where it came from. vision_only: leave the text tower out.

    Raises:
        ValueError: a tower (ResNet, attentional pooler, Hugging Face text ...) that a run folder
            cannot represent, named; for a text tower, --vision-only is the remedy.
    """
    model = model.eval()
    visual = model.visual
    cfg = getattr(visual, "preprocess_cfg", None) or {}
    try:
        if type(visual).__name__ == "TimmModel":
            tower = tower_of(visual.trunk, visual.trunk.pretrained_cfg["architecture"])
            projection = _timm_head(visual)
        else:
            tower, projection = vision_tower(visual), (visual.proj.detach().T.contiguous(), None)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    parts = Parts(
        tower,
        {"library": "open_clip", "name": name},
        model.encode_image,
        image_projection=projection,
        mean=cfg.get("mean", (0.48145466, 0.4578275, 0.40821073)),
        std=cfg.get("std", (0.26862954, 0.26130258, 0.27577711)),
        interpolation=cfg.get("interpolation", "bicubic"),
    )
    if cfg.get("resize_mode") == "squash":
        parts.notes.append("its images were squashed to a square: read it with --resize squash")
    if getattr(model, "logit_bias", None) is not None:
        parts.notes.append("its logit bias is left out: rankings stay, probabilities do not")
    if vision_only:
        return parts
    text = getattr(model, "text", model)  # CLIP holds the parts of its text transformer itself
    try:
        parts.text = text_tower(text)
    except ValueError as error:
        raise ValueError(
            f"{name}: {error}; take the vision tower alone with --vision-only"
        ) from None
    matrix = text.text_projection
    if isinstance(matrix, nn.Linear):
        bias = None if matrix.bias is None else matrix.bias.detach()
        parts.text_projection = (matrix.weight.detach(), bias)
    elif matrix is not None:
        parts.text_projection = (matrix.detach().T.contiguous(), None)
    parts.embed_text = model.encode_text
    parts.log_scale = float(model.logit_scale.detach().reshape(()))
    if parts.text.style.pool == "argmax" and parts.text.settings["vocab_size"] == CLIP_WORDS:
        parts.tokenizer = Tokenizer.open_clip()
    else:
        parts.notes.append("not CLIP's tokenizer: encode_text takes token ids only")
    return parts


def vision_tower(visual: nn.Module) -> VisionTower:
    """The VisionTower of open_clip's own VisionTransformer, through timm's converter.

    Raises:
        ValueError: a ResNet, an attentional pooler, custom blocks.
    """
    kind = type(visual).__name__
    if kind != "VisionTransformer" or visual.attn_pool is not None:
        raise ValueError(f"its image tower is a {kind} with an attentional pool, or no ViT")
    blocks = visual.transformer.resblocks
    _check_blocks(blocks, "image")
    if visual.pool_type not in ("tok", "avg"):
        raise ValueError(f"its image pool is {visual.pool_type!r}, not 'tok' or 'avg'")
    size, patch = visual.image_size, visual.patch_size
    if size[0] != size[1] or patch[0] != patch[1]:
        raise ValueError(f"its images {size} and patches {patch} must be square")
    width = visual.conv1.out_channels
    pre_norm = not isinstance(visual.ln_pre, nn.Identity)
    overrides = {
        "patch_size": patch[0],
        "embed_dim": width,
        "depth": len(blocks),
        "num_heads": blocks[0].attn.num_heads,
        "mlp_ratio": layout.ratio(blocks[0].mlp.c_fc.out_features, width),
        "init_values": None if isinstance(blocks[0].ls_1, nn.Identity) else 1e-5,
        "class_token": True,
        "reg_tokens": 0,
        "no_embed_class": False,
        "pre_norm": pre_norm,
        "fc_norm": visual.final_ln_after_pool,
        "global_pool": {"tok": "token", "avg": "avg"}[visual.pool_type],
        "act_layer": layout.activation(blocks[0].mlp.gelu),
        "norm_eps": visual.ln_post.eps,
    }
    family = "clip_quickgelu" if overrides["act_layer"] == "quick_gelu" else "clip"
    arch = layout.arch_name(family, width, len(blocks), patch[0], size[0])
    tower = VisionTower(arch, size[0], overrides=overrides)
    weights = {f"visual.{k}": v for k, v in visual.state_dict().items()}
    weights = checkpoint_filter_fn(weights, tower.net)
    weights = {k.replace(".ls_", ".ls"): v for k, v in weights.items() if k[:5] != "head."}
    if not pre_norm:
        weights["patch_embed.proj.bias"] = torch.zeros(width)
    if visual.final_ln_after_pool:
        weights = {
            k.replace("norm.", "fc_norm.") if k in ("norm.weight", "norm.bias") else k: v
            for k, v in weights.items()
        }
    load(tower.net, weights, "open_clip's VisionTransformer", "this one is built differently")
    return tower.eval()


def text_tower(text: nn.Module) -> TextTower:
    """The TextTower of open_clip's own text transformer.

    Raises:
        ValueError: a Hugging Face text model, CoCa's class embedding, custom blocks, another pool.
    """
    if not hasattr(text, "token_embedding"):
        raise ValueError(f"its text tower is a {type(text).__name__}")
    if getattr(text, "cls_emb", None) is not None:
        raise ValueError("its text tower appends a class embedding (CoCa)")
    blocks = text.transformer.resblocks
    _check_blocks(blocks, "text")
    if not isinstance(blocks[0].ls_1, nn.Identity):
        raise ValueError("its text tower has layer scale")
    pool = text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type
    eos = getattr(text, "text_eos_id", getattr(text, "eos_id", None))
    if pool not in ("argmax", "eos", "last"):
        raise ValueError(f"its text pool is {pool!r}, not 'argmax', 'eos' or 'last'")
    vocab, width = text.token_embedding.weight.shape
    activation = layout.activation(blocks[0].mlp.gelu)
    # SigLIP's tokenizer pads with 1 (c4's), SigLIP 2's with 0 (Gemma's), CLIP's with 0
    pad_id = 1 if pool == "last" and vocab == 32000 else getattr(text, "pad_id", 0)
    style = TextStyle(
        causal=text.attn_mask is not None,
        pool=pool,
        act=layout.TO_TRANSFORMERS.get(activation, activation),
        norm_eps=text.ln_final.eps,
        mlp_width=blocks[0].mlp.c_fc.out_features,
        eos_id=eos if pool == "eos" else None,
        pad_id=pad_id,
    )
    length = text.positional_embedding.shape[0]
    tower = TextTower(vocab, width, len(blocks), blocks[0].attn.num_heads, length, style=style)
    load(tower.net, text_weights(text, len(blocks)), "open_clip's text transformer", "report it")
    return tower.eval()


def text_weights(text: nn.Module, depth: int) -> dict[str, Tensor]:
    """open_clip's text weights under transformers' names."""
    theirs = text.state_dict()
    found = {
        "embeddings.token_embedding.weight": theirs["token_embedding.weight"],
        "embeddings.position_embedding.weight": theirs["positional_embedding"],
    }
    for part in ("weight", "bias"):
        found[f"final_layer_norm.{part}"] = theirs[f"ln_final.{part}"]
        for i in range(depth):
            old, new = f"transformer.resblocks.{i}.", f"encoder.layers.{i}."
            for a, b in TEXT_BLOCK:
                found[f"{new}{b}.{part}"] = theirs[f"{old}{a}.{part}"]
            stacked = theirs[f"{old}attn.in_proj_{part}"].chunk(3)
            for letter, piece in zip("qkv", stacked, strict=True):
                found[f"{new}self_attn.{letter}_proj.{part}"] = piece
    return found


# open_clip's names of the parts of a text block, transformers' names.
TEXT_BLOCK = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def _timm_head(visual: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The projection of a TimmModel: None, or (weight, bias).

    Raises:
        ValueError: an attention pool or an MLP of open_clip's own.
    """
    parts = {k: v for k, v in visual.head.named_children() if not isinstance(v, nn.Dropout)}
    if not parts:
        inner = visual.trunk.head
        return None if isinstance(inner, nn.Identity) else _linear(inner)
    if set(parts) != {"proj"}:
        raise ValueError(f"its image tower ends in {sorted(parts)}, not in one linear projection")
    return _linear(parts["proj"])


def _linear(module: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return module.weight.detach(), None if module.bias is None else module.bias.detach()


def _check_blocks(blocks: nn.Sequential, which: str) -> None:
    kind = type(blocks[0]).__name__
    if kind != "ResidualAttentionBlock":
        raise ValueError(f"its {which} tower is made of {kind}, not of plain blocks")
