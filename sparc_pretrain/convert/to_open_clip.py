"""A run folder as an open_clip checkpoint, where open_clip has the towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparc_pretrain.convert import layout
from sparc_pretrain.convert.export import Exported, Opened, proved
from sparc_pretrain.convert.from_open_clip import TEXT_BLOCK

USAGE = """import open_clip
model, preprocess = open_clip.create_model_from_pretrained("local-dir:path/to/this/folder")
image, text = model.encode_image(images), model.encode_text(ids)"""
CLIP_EPS = 1e-5  # of open_clip's LayerNorm
# timm's names of a block's parts, open_clip's.
BLOCK = (
    ("norm1", "ln_1"),
    ("norm2", "ln_2"),
    ("attn.proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def to_open_clip(opened: Opened, folder: Path) -> Exported:
    """Write open_clip_config.json and open_clip_model.safetensors, as
    ``open_clip.create_model('local-dir:...')`` reads them.

    Raises:
        ValueError: why open_clip cannot hold this run: a non-linear head, a text tower that
            averages, a vision tower that neither open_clip nor a timm name describes.
    """
    refusals = [r for r in (opened.inexact_projection(), _text_refusal(opened)) if r]
    if refusals:
        raise ValueError(f"{opened.run.name} is no open_clip model: {'; '.join(refusals)}")
    model = opened.model
    text_cfg, text = text_side(opened)
    native = native_vision(model.vision.net)
    if native is None:
        vision_cfg, vision, what = timm_vision(opened)
    else:
        vision_cfg, vision = native
        vision["visual.proj"] = model.adapters.g_v.weight.T
        what = "its own ViT"
        if model.adapters.g_v.bias.any():
            raise ValueError("open_clip's image projection has no bias, this run's has one")
    quick = {c["act"] for c in (text_cfg, vision_cfg) if c.get("act") == "quick_gelu"}
    acts = {c.pop("act") for c in (text_cfg, vision_cfg) if "act" in c}
    if quick and len(acts) > 1:
        raise ValueError(f"open_clip has one activation for both towers, this run has {acts}")
    for cfg in (text_cfg, vision_cfg):
        if acts == {"gelu_tanh"} and "timm_model_name" not in cfg:
            cfg["act_kwargs"] = {"approximate": "tanh"}
    custom = {"custom_text": True} if native is None else {}
    model_cfg = {
        "embed_dim": model.width,
        **({"quick_gelu": True} if quick else {}),
        **custom,
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    prefix = "text." if custom else ""
    weights = {**vision, **{prefix + k: v for k, v in text.items()}}
    weights["logit_scale"] = opened.log_scale()
    statistics = model.config()
    preprocess = {
        "size": [model.vision.img_size] * 2,
        "mode": "RGB",
        "mean": statistics["mean"],
        "std": statistics["std"],
        "interpolation": model.interpolation,
        "resize_mode": "shortest",
    }
    text_json = json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess}, indent=1)
    (folder / "open_clip_config.json").write_text(text_json)
    save_file(
        {k: v.detach().clone().contiguous() for k, v in weights.items()},
        folder / "open_clip_model.safetensors",
    )
    return _proved(opened, folder, what)


def native_vision(net: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """(vision_cfg, weights) of open_clip's own VisionTransformer, None when it cannot be one."""
    wanted = layout.arguments(net)
    plain = wanted["class_token"] and not wanted["reg_tokens"] and wanted["qkv_bias"]
    odd = {"qk_norm", "proj_bias", "final_norm", "pos_embed", "mlp_layer", "pool_include_prefix"}
    pools = {"token": "tok", "avg": "avg"}
    if not plain or odd & set(wanted) or wanted["global_pool"] not in pools:
        return None
    cfg: dict[str, Any] = {
        "image_size": net.patch_embed.img_size[0],
        "layers": wanted["depth"],
        "width": wanted["embed_dim"],
        "head_width": wanted["embed_dim"] // wanted["num_heads"],
        "mlp_ratio": wanted["mlp_ratio"],
        "patch_size": wanted["patch_size"],
        "pool_type": pools[wanted["global_pool"]],
        "no_ln_pre": not wanted["pre_norm"],
        "final_ln_after_pool": wanted["fc_norm"],
        "act": wanted["act_layer"],
    }
    if wanted["init_values"]:
        cfg["ls_init_value"] = wanted["init_values"]
    if wanted["norm_eps"] != CLIP_EPS:
        cfg["norm_kwargs"] = {"eps": wanted["norm_eps"]}
    theirs, width = net.state_dict(), wanted["embed_dim"]
    positions = theirs["pos_embed"][0]
    if wanted["no_embed_class"]:
        positions = torch.cat([torch.zeros(1, width), positions])
    if net.patch_embed.proj.bias is not None:  # open_clip's has none: positions carry it
        bias = torch.cat([torch.zeros(1, width), net.patch_embed.proj.bias.detach()[None]])
        positions = positions + bias[[0] + [1] * (len(positions) - 1)]
    weights = {
        "class_embedding": theirs["cls_token"].flatten(),
        "positional_embedding": positions,
        "conv1.weight": theirs["patch_embed.proj.weight"],
    }
    last = "fc_norm" if wanted["fc_norm"] else "norm"
    pairs = [(last, "ln_post")] + ([("norm_pre", "ln_pre")] if wanted["pre_norm"] else [])
    for i in range(wanted["depth"]):
        ours, new = f"blocks.{i}.", f"transformer.resblocks.{i}."
        pairs += [(ours + a, new + b) for a, b in BLOCK]
        for part in ("weight", "bias"):
            weights[f"{new}attn.in_proj_{part}"] = theirs[f"{ours}attn.qkv.{part}"]
        for scale in ("1", "2"):
            if wanted["init_values"]:
                weights[f"{new}ls_{scale}.gamma"] = theirs[f"{ours}ls{scale}.gamma"]
    for ours, new in pairs:
        for part in ("weight", "bias"):
            weights[f"{new}.{part}"] = theirs[f"{ours}.{part}"]
    return cfg, {f"visual.{k}": v for k, v in weights.items()}


def timm_vision(opened: Opened) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """(vision_cfg, weights, name) of a timm trunk in open_clip, which knows it by its name alone.

    Raises:
        ValueError: no timm name builds this tower.
    """
    model, tower = opened.model, opened.model.vision
    arch = timm_name(tower.net, tower.arch, tower.img_size)
    if arch is None:
        raise ValueError(
            f"open_clip names a timm tower without arguments, and no timm name builds this one "
            f"({tower.arch} with {tower.overrides}); export it --to timm"
        )
    g_v = model.adapters.g_v
    same = torch.equal(g_v.weight, torch.eye(model.width, g_v.in_features)) and not g_v.bias.any()
    cfg = {
        "image_size": tower.img_size,
        "timm_model_name": arch,
        "timm_pool": tower.net.global_pool,
        "timm_proj": "none" if same else "linear",
        "timm_proj_bias": bool(g_v.bias.any()),
    }
    weights = {f"visual.trunk.{k}": v for k, v in tower.net.state_dict().items()}
    if not same:
        weights["visual.head.proj.weight"] = g_v.weight
        if cfg["timm_proj_bias"]:
            weights["visual.head.proj.bias"] = g_v.bias
    return cfg, weights, f"timm's {arch}"


def timm_name(net: nn.Module, arch: str, img_size: int) -> str | None:
    """A timm name whose defaults, with the pool set, are `net`; None if there is none."""
    wanted = {**layout.arguments(net), "img_size": img_size}
    size = layout.SIZES.get((wanted["embed_dim"], wanted["depth"]))
    stock = f"vit_{size}_patch{wanted['patch_size']}*_{img_size}"
    for name in (arch, *timm.list_models(stock)):
        try:
            with torch.device("meta"):
                built = timm.create_model(name, num_classes=0)
            found = layout.arguments(built)
        except ValueError:
            continue  # another kind of model under a vit_ name
        pool = {"global_pool": wanted["global_pool"]}
        size = built.patch_embed.img_size[0]
        if {**found, **pool, "img_size": size} == wanted and (
            # an attention pool is made with the model, never by setting the pool
            (built.attn_pool is None) == (net.attn_pool is None)
        ):
            return name
    return None


def text_side(opened: Opened) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(text_cfg, weights without prefix) of open_clip's text transformer."""
    tower, g_t = opened.model.text, opened.model.adapters.g_t
    settings, style = tower.settings, tower.style
    act = {v: k for k, v in layout.TO_TRANSFORMERS.items()}.get(style.act, style.act)
    width = settings["width"]
    cfg: dict[str, Any] = {
        "context_length": settings["max_tokens"],
        "vocab_size": settings["vocab_size"],
        "width": width,
        "heads": settings["heads"],
        "layers": settings["layers"],
        "mlp_ratio": layout.ratio(style.mlp_width or 4 * width, width),
        "pool_type": style.pool,
        "no_causal_mask": not style.causal,
        "proj_bias": bool(g_t.bias.any()) or not style.causal,
        "pad_id": style.pad_id,
        "act": act,
    }
    if style.eos_id is not None:
        cfg["eos_id"] = style.eos_id
    if style.norm_eps != CLIP_EPS:
        cfg["norm_kwargs"] = {"eps": style.norm_eps}
    theirs = tower.net.state_dict()
    weights = {
        "token_embedding.weight": theirs["embeddings.token_embedding.weight"],
        "positional_embedding": theirs["embeddings.position_embedding.weight"],
    }
    for part in ("weight", "bias"):
        weights[f"ln_final.{part}"] = theirs[f"final_layer_norm.{part}"]
        for i in range(settings["layers"]):
            old, new = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
            for theirs_name, ours_name in TEXT_BLOCK:
                weights[f"{new}{theirs_name}.{part}"] = theirs[f"{old}{ours_name}.{part}"]
            stacked = [theirs[f"{old}self_attn.{letter}_proj.{part}"] for letter in "qkv"]
            weights[f"{new}attn.in_proj_{part}"] = torch.cat(stacked)
    if cfg["proj_bias"]:
        weights |= {"text_projection.weight": g_t.weight, "text_projection.bias": g_t.bias}
    else:
        weights["text_projection"] = g_t.weight.T
    return cfg, weights


def _text_refusal(opened: Opened) -> str | None:
    text = opened.model.text
    if text is None:
        return "it has no text tower"
    if text.style.pool == "mean":
        return "its text tower averages its tokens, open_clip's pools one of them"
    if text.style.pool == "first":
        return "its text tower hides padding and takes the begin token, open_clip's reads padding"
    return None


@torch.inference_mode()
def _proved(opened: Opened, folder: Path, what: str) -> Exported:
    import open_clip

    again = open_clip.create_model(f"local-dir:{folder}").eval()
    model, image, ids = opened.model, opened.image(), opened.ids()
    pairs = [
        (again.encode_image(image), model.encode_image(image)),
        (again.encode_text(ids), model.encode_text(ids)),
    ]
    name = f"open_clip {type(again).__name__}, image tower {what}"
    return Exported(name, proved(pairs, name), USAGE)
