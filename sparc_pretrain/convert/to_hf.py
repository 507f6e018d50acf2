"""A run folder as a Hugging Face folder of an architecture that transformers has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from sparc_pretrain.convert import layout, names
from sparc_pretrain.convert.export import Exported, Opened, proved, write_processing
from sparc_pretrain.convert.load_hf import quiet
from sparc_pretrain.convert.parts import load
from sparc_pretrain.convert.to_timm import to_timm

CLASSES = {
    "clip": ("CLIPVisionConfig", "CLIPVisionModel"),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel"),
    "dinov2": ("Dinov2Config", "Dinov2Model"),
    "dinov2_with_registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel"),
}
USAGE = """from transformers import AutoModel
model = AutoModel.from_pretrained("path/to/this/folder").eval()
"""
# AutoBackbone.from_pretrained of transformers 5 asks the hub for the name, so it takes no folder.
BACKBONE = """
from transformers import {name}  # as maps of blocks; AutoBackbone does it for a name on the hub
backbone = {name}.from_pretrained("path/to/this/folder", out_indices=[-1])"""
USES = {
    "clip": "states = model.vision_model.post_layernorm(\n"
    "    model.vision_model(pixel_values=images).last_hidden_state\n"
    ")  # [B, 1 + patches, width]; CLIP leaves its last norm to the class token",
    "clip alone": "states = model.post_layernorm(model(pixel_values=images).last_hidden_state)"
    "\n# [B, 1 + patches, width]; CLIP leaves its last norm to the class token",
    "siglip": "states = model.vision_model(pixel_values=images).last_hidden_state",
}
PLAIN = "states = model(pixel_values=images).last_hidden_state  # [B, prefix + patches, width]"


def to_hf(opened: Opened, folder: Path) -> Exported:
    """Write config.json, model.safetensors, preprocessor_config.json (and the tokenizer) of the
    transformers architecture that computes the same: CLIP or SigLIP with both towers, or
    CLIP's, SigLIP's or DINOv2's vision model, or else transformers' wrapper of timm models.

    Raises:
        ValueError: what was written does not give the same features.
    """
    with quiet():
        return _write(opened, folder)


def _write(opened: Opened, folder: Path) -> Exported:
    kind, reason = architecture(opened.model.vision.net)
    if kind is not None:
        try:
            vision = vision_model(kind, opened)
        except ValueError as error:
            kind, reason = None, str(error)
    if kind is None:
        done = to_timm(opened, folder)
        write_processing(opened, folder)
        done.architecture = f"transformers' TimmWrapperModel of {done.architecture}"
        done.usage = USAGE + "tokens = model(pixel_values=images).last_hidden_state"
        done.notes.append(f"no architecture of transformers' own fits: {reason}")
        with torch.inference_mode():
            again = transformers.AutoModel.from_pretrained(folder).eval()
            image = opened.image()
            tokens = opened.model.vision(image, prefix=True)
            pairs = [(again(pixel_values=image).last_hidden_state, tokens)]
            done.difference = max(done.difference, proved(pairs, done.architecture))
        return done
    model, why = both_towers(kind, vision, opened)
    (vision if model is None else model).save_pretrained(folder)
    write_processing(opened, folder, words=model is not None)
    return _proved(opened, folder, kind, why)


def architecture(net: nn.Module) -> tuple[str | None, str]:
    """(transformers' family, '') that computes what a timm ViT computes, or (None, why not)."""
    wanted = layout.arguments(net)
    odd = [
        k
        for k in ("qk_norm", "proj_bias", "final_norm", "pos_embed", "pool_include_prefix")
        if k in wanted
    ]
    if odd or wanted["fc_norm"]:
        return None, f"{odd or ['fc_norm']} of timm"
    if wanted["pre_norm"]:
        plain = wanted["class_token"] and not wanted["reg_tokens"] and not wanted["init_values"]
        return ("clip", "") if plain else (None, "a pre-norm without CLIP's tokens")
    if not wanted["class_token"]:
        if wanted["reg_tokens"] or wanted["init_values"]:
            return None, "registers or layer scale without a class token"
        return "siglip", ""
    return ("dinov2_with_registers" if wanted["reg_tokens"] else "dinov2"), ""


def vision_model(kind: str, opened: Opened) -> nn.Module:
    """The transformers vision model with the weights of the run's tower.

    Raises:
        ValueError: sizes that its config cannot say.
    """
    tower = opened.model.vision
    net, wanted = tower.net, layout.arguments(tower.net)
    swiglu = "mlp_layer" in wanted
    act = wanted["act_layer"]
    settings: dict[str, Any] = {
        "hidden_size": wanted["embed_dim"],
        "num_hidden_layers": wanted["depth"],
        "num_attention_heads": wanted["num_heads"],
        "image_size": tower.img_size,
        "patch_size": wanted["patch_size"],
        "hidden_act": layout.TO_TRANSFORMERS.get(act, act),
        "layer_norm_eps": wanted["norm_eps"],
    }
    if kind in ("clip", "siglip"):
        settings["intermediate_size"] = net.blocks[0].mlp.fc1.out_features
        if not wanted["qkv_bias"]:
            raise ValueError("attention without biases")
    else:
        settings |= {"qkv_bias": wanted["qkv_bias"], "use_swiglu_ffn": swiglu}
        settings["mlp_ratio"] = 4 if swiglu else round(wanted["mlp_ratio"])
        if kind == "dinov2_with_registers":
            settings["num_register_tokens"] = wanted["reg_tokens"]
    if kind == "siglip":
        settings["vision_use_head"] = wanted["global_pool"] == "map"
    config, model = (getattr(transformers, name) for name in CLASSES[kind])
    target = model(config(**settings))
    weights = names.from_timm(net.state_dict(), names.table(kind, wanted["depth"], swiglu))
    _tokens_and_positions(kind, net, weights)
    if kind.startswith("dinov2") and not wanted["init_values"]:
        for name in target.state_dict():
            if name.endswith("lambda1"):
                weights[name] = torch.ones(wanted["embed_dim"])
    load(target, weights, f"{model.__name__}", "no such architecture")
    return target.eval()


@torch.no_grad()
def _tokens_and_positions(kind: str, net: nn.Module, weights: dict[str, Tensor]) -> None:
    positions, prefix = net.pos_embed, net.num_prefix_tokens
    if net.no_embed_class and prefix:  # a position of zero for each token that has none
        positions = torch.cat([torch.zeros(1, prefix, net.embed_dim), positions], dim=1)
    if kind in ("clip", "siglip"):
        weights["embeddings.position_embedding.weight"] = positions[0].clone()
    if kind == "clip":
        weights["embeddings.class_embedding"] = net.cls_token.flatten().clone()
    elif kind == "siglip" and net.attn_pool is not None:
        weights["head.probe"] = net.attn_pool.latent.clone()
        for part in ("weight", "bias"):
            stacked = [getattr(net.attn_pool.q, part), getattr(net.attn_pool.kv, part)]
            weights[f"head.attention.in_proj_{part}"] = torch.cat(stacked)
    elif kind.startswith("dinov2"):
        weights["embeddings.cls_token"] = net.cls_token.clone()
        weights["embeddings.mask_token"] = torch.zeros(1, net.embed_dim)
        if kind == "dinov2_with_registers":  # registers have no positions there
            weights["embeddings.register_tokens"] = net.reg_token + positions[:, 1:prefix]
            positions = torch.cat([positions[:, :1], positions[:, prefix:]], dim=1)
        weights["embeddings.position_embeddings"] = positions.clone()


def both_towers(kind: str, vision: nn.Module, opened: Opened) -> tuple[nn.Module | None, str]:
    """(CLIPModel or SiglipModel, '') where the text tower and projections are theirs as well, else
    (None, why not).
    """
    model = opened.model
    if model.text is None:
        return None, ""
    style, adapters = model.text.style, model.adapters
    clip = kind == "clip" and style.causal and style.pool in ("argmax", "eos")
    siglip = kind == "siglip" and not style.causal and style.pool == "last"
    siglip = siglip and vision.config.vision_use_head
    if not clip and not siglip:
        return None, "transformers has no model of this pair of towers"
    if opened.inexact_projection():
        return None, opened.inexact_projection()
    eye = torch.eye(model.width)
    if adapters.g_v.bias.any() or (clip and adapters.g_t.bias.any()):
        return None, "its projections have biases"
    if siglip and not torch.equal(adapters.g_v.weight, eye):
        return None, "SigLIP has no projection after its image pool"
    settings = model.text.settings
    text = {
        "vocab_size": settings["vocab_size"],
        "hidden_size": settings["width"],
        "intermediate_size": style.mlp_width or 4 * settings["width"],
        "num_hidden_layers": settings["layers"],
        "num_attention_heads": settings["heads"],
        "max_position_embeddings": settings["max_tokens"],
        "hidden_act": style.act,
        "layer_norm_eps": style.norm_eps,
        "pad_token_id": style.pad_id,
        "bos_token_id": None,
        # 2 makes CLIPTextModel take the highest id, as the argmax pool does
        "eos_token_id": 2 if style.pool == "argmax" else style.eos_id,
    }
    image = vision.config.to_dict()
    if clip:
        config = transformers.CLIPConfig(
            text_config=text, vision_config=image, projection_dim=model.width
        )
        target: nn.Module = transformers.CLIPModel(config)
    else:
        text["projection_size"] = model.width
        target = transformers.SiglipModel(
            transformers.SiglipConfig(text_config=text, vision_config=image)
        )
    target.vision_model.load_state_dict(vision.state_dict())
    words = {k: v for k, v in model.text.net.state_dict().items() if not k.startswith("head.")}
    with torch.no_grad():
        if clip:
            target.visual_projection.weight.copy_(adapters.g_v.weight)
            target.text_projection.weight.copy_(adapters.g_t.weight)
        else:
            words |= {"head.weight": adapters.g_t.weight, "head.bias": adapters.g_t.bias}
            target.logit_bias.zero_()
        target.logit_scale.copy_(opened.log_scale().reshape(target.logit_scale.shape))
    load(target.text_model, words, type(target).__name__, "no such architecture")
    return target.eval(), ""


@torch.inference_mode()
def _proved(opened: Opened, folder: Path, kind: str, why: str) -> Exported:
    again = transformers.AutoModel.from_pretrained(folder).eval()
    model, image = opened.model, opened.image()
    tokens = model.vision(image, prefix=True)
    vision = getattr(again, "vision_model", again)
    found = vision(pixel_values=image)
    states = found.last_hidden_state
    if kind == "clip":
        states = vision.post_layernorm(states)
    pairs = [(states, tokens)]
    notes = []
    if found.pooler_output is not None and model.vision.net.global_pool != "avg":
        pairs.append((found.pooler_output, model.vision.pool(tokens)))
    else:
        notes.append("the pooled state is the mean over patches of `states`")
    full = hasattr(again, "text_model")
    if full:
        ids = opened.ids()
        pairs.append((again.get_image_features(image).pooler_output, model.encode_image(image)))
        pairs.append((again.get_text_features(ids).pooler_output, model.encode_text(ids)))
    elif model.text is not None:
        notes.append(f"the vision tower alone: {why}")
    name = type(again).__name__
    use = USES.get(kind if full else f"{kind} alone", PLAIN)
    backbone = ""
    if kind.startswith("dinov2"):
        backbone = BACKBONE.format(name=name.replace("Model", "Backbone"))
    if not backbone:
        notes.append("AutoBackbone has no architecture that fits; AutoModel loads it")
    return Exported(f"transformers {name}", proved(pairs, name), USAGE + use + backbone, notes)
