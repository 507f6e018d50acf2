"""Hugging Face vision and vision-language models -> Parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparc_pretrain.convert import hf_processor, layout, names
from sparc_pretrain.convert.from_dinov3 import dinov3_tower
from sparc_pretrain.convert.parts import Parts, load
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.towers.text import TextStyle, TextTower
from sparc_pretrain.towers.vision import VisionTower

CLIPS = ("clip", "metaclip_2")  # one architecture
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# What an image processor of that family uses, for folders without preprocessor_config.json.
STATISTICS = {
    "clip": OPENAI,
    "siglip": HALF,
    "dinov2": IMAGENET,
    "dinov2_with_registers": IMAGENET,
    "vit": HALF,
    "metaclip_2": OPENAI,
    "dinov3_vit": IMAGENET,
}
# What is not read, and why: names that people take for one of those that are.
REFUSED = {
    "siglip2": "SigLIP 2's NaFlex reads patches of any aspect; its fixed-size models "
    "(google/siglip2-base-patch16-224) are converted",
    "dinov3_convnext": "a convolutional network",
    "pe_video": "a model of videos; timm's vit_pe_* of images are converted",
}
NAMES = {
    "clip": "clip_quickgelu",
    "metaclip_2": "clip_quickgelu",
    "dinov2_with_registers": "reg4_dinov2",
    "vit": "none",
}


def from_hf(
    model: nn.Module,
    name: str,
    processor: dict[str, Any] | None = None,
    tokenizer: Tokenizer | None = None,
    vision_only: bool = False,
) -> Parts:
    """A CLIP (MetaCLIP 1, 2), SigLIP (1; 2 of fixed size), DINOv2 (with registers), DINOv3 or ViT
    model of transformers.

    Args:
        model: CLIPModel, CLIPVisionModel, CLIPVisionModelWithProjection, SiglipModel,
            SiglipVisionModel, Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel, ViTModel or
            MetaClip2's, with its weights. name: where it came from.
        processor: what its files say of pixels (`hf_processor`). tokenizer: for the text tower.
        vision_only: leave the text tower out.

    Raises:
        ValueError: another architecture.
    """
    kind = kind_of(model.config, name)
    model = model.eval()
    both = hasattr(model, "text_model")
    vision = getattr(model, "vision_model", model)
    config = model.config.vision_config if both else model.config
    tower = vision_tower(kind, vision.state_dict(), config, name)
    # where the files do not say: what the image processor of the family does
    pixels = hf_processor.pixels(processor or {}, *STATISTICS[kind], 2 if kind == "vit" else 3)
    notes = [] if kind != "vit" else ["its pooler (a tanh layer) is left out"]

    def embed(image: Tensor) -> Tensor:
        if both:
            return model.get_image_features(pixel_values=image).pooler_output
        found = model(pixel_values=image)
        if hasattr(model, "visual_projection"):
            return found.image_embeds
        if kind == "vit":
            return found.last_hidden_state[:, 0]
        return found.pooler_output

    parts = Parts(
        tower,
        {"library": "transformers", "name": name},
        embed,
        mean=pixels.mean,
        std=pixels.std,
        interpolation=pixels.interpolation,
        notes=notes,
    )
    if hasattr(model, "visual_projection"):
        parts.image_projection = (model.visual_projection.weight.detach(), None)
    if both and not vision_only:
        parts.text = text_tower(kind, model.text_model, model.config.text_config, name)
        projection = model.text_projection if kind in CLIPS else model.text_model.head
        bias = None if projection.bias is None else projection.bias.detach()
        parts.text_projection = (projection.weight.detach(), bias)
        parts.embed_text = lambda ids: model.get_text_features(input_ids=ids).pooler_output
        parts.log_scale = float(model.logit_scale.detach())
        parts.tokenizer = tokenizer
    return parts


def kind_of(config: Any, name: str) -> str:
    """The family of a model by its config. Raises ValueError for one that is not read."""
    kind = config.model_type.removesuffix("_vision_model")
    if kind not in STATISTICS:
        why = f" ({REFUSED[kind]})" if kind in REFUSED else ""
        raise ValueError(
            f"{name} is a {config.model_type}{why}; converted are {sorted(STATISTICS)}"
        )
    return kind


def vision_tower(kind: str, weights: dict[str, Tensor], config: Any, name: str) -> VisionTower:
    """The VisionTower of transformers' vision weights and config.

    Raises ValueError for images that are not square and for weights that do not fit.
    """
    if kind == "dinov3_vit":
        return dinov3_tower(weights, config, name)
    if kind == "metaclip_2":  # CLIP's towers
        kind = "clip"
    width, depth = config.hidden_size, config.num_hidden_layers
    swiglu = getattr(config, "use_swiglu_ffn", False)
    converted = names.to_timm(weights, names.table(kind, depth, swiglu))
    tokens_and_positions(kind, weights, converted)
    pool = "map" if kind == "siglip" else "token"
    if kind == "siglip" and "head.probe" not in weights:
        pool = "avg"  # vision_use_head=False: it has no pooled output of its own
    size = config.image_size
    side = size if isinstance(size, int) else size[0]
    if not isinstance(size, int) and len(set(size)) > 1:
        raise ValueError(f"{name}: image size {size} must be square")
    hidden = converted["blocks.0.mlp.fc1.weight"].shape[0]
    activation = getattr(config, "hidden_act", "gelu")
    if activation not in layout.FROM_TRANSFORMERS:
        raise ValueError(
            f"{name}: activation {activation!r} is none of {sorted(layout.FROM_TRANSFORMERS)}"
        )
    overrides = {
        "patch_size": config.patch_size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": layout.ratio(hidden, width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in converted,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in converted else None,
        "class_token": kind != "siglip",
        "reg_tokens": converted["reg_token"].shape[1] if "reg_token" in converted else 0,
        "no_embed_class": "reg_token" in converted,
        "pre_norm": kind == "clip",
        "fc_norm": False,
        "global_pool": pool,
        "act_layer": "silu" if swiglu else layout.FROM_TRANSFORMERS[activation],
        "norm_eps": config.layer_norm_eps,
    }
    if swiglu:
        overrides["mlp_layer"] = "swiglu_packed"
    family = NAMES.get(kind, kind)
    if kind == "clip" and activation != "quick_gelu":
        family = "clip"
    arch = layout.arch_name(family, width, depth, config.patch_size, side)
    tower = VisionTower(arch, side, overrides=overrides)
    load(tower.net, converted, name, "this transformers names its weights differently")
    return tower.eval()


def tokens_and_positions(
    kind: str, weights: dict[str, Tensor], converted: dict[str, Tensor]
) -> None:
    """Fill in class and register tokens, positions and the attention pool's query."""
    if kind in ("clip", "siglip"):
        converted["pos_embed"] = weights["embeddings.position_embedding.weight"][None]
        if kind == "clip":
            converted["cls_token"] = weights["embeddings.class_embedding"].reshape(1, 1, -1)
        elif "head.probe" in weights:
            converted["attn_pool.latent"] = weights["head.probe"]
            for part in ("weight", "bias"):
                query, keys_values = _query_and_rest(weights[f"head.attention.in_proj_{part}"])
                converted[f"attn_pool.q.{part}"] = query
                converted[f"attn_pool.kv.{part}"] = keys_values
        return
    converted["cls_token"] = weights["embeddings.cls_token"]
    positions = weights["embeddings.position_embeddings"]
    if kind == "dinov2_with_registers":
        # registers have no position here: the class token's goes into the token, as in timm
        converted["cls_token"] = converted["cls_token"] + positions[:, :1]
        converted["reg_token"] = weights["embeddings.register_tokens"]
        positions = positions[:, 1:]
    converted["pos_embed"] = positions


def text_tower(kind: str, model: nn.Module, config: Any, name: str) -> TextTower:
    """The TextTower of a CLIP or SigLIP text model of transformers."""
    pool, eos = "last", None
    if kind == "metaclip_2":
        pool, eos = "eos", config.eos_token_id
    elif kind == "clip":  # CLIPTextModel: an end token of 2 means a config from before it was read
        pool, eos = ("argmax", None) if config.eos_token_id == 2 else ("eos", config.eos_token_id)
    style = TextStyle(
        causal=kind in CLIPS,
        pool=pool,
        act=config.hidden_act,
        norm_eps=config.layer_norm_eps,
        mlp_width=config.intermediate_size,
        eos_id=eos,
        pad_id=config.pad_token_id if config.pad_token_id is not None else 0,
    )
    tower = TextTower(
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.max_position_embeddings,
        style=style,
    )
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    load(tower.net, weights, name, "this transformers names its weights differently")
    return tower.eval()


def _query_and_rest(stacked: Tensor) -> tuple[Tensor, Tensor]:
    third = stacked.shape[0] // 3
    return stacked[:third], stacked[third:]
