"""Small models of other libraries with random weights, and what they themselves say of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import transformers
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

VISION = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
)
TEXT = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=10,
    bos_token_id=38,
    eos_token_id=39,
)
OPEN_VISION = dict(image_size=32, layers=2, width=48, head_width=24, patch_size=8)
OPEN_TEXT = dict(context_length=12, vocab_size=50, width=32, heads=2, layers=2)
SIGLIP_TEXT = dict(
    **OPEN_TEXT,
    no_causal_mask=True,
    proj_bias=True,
    pool_type="last",
    norm_kwargs=dict(eps=1e-6),
    act_kwargs=dict(approximate="tanh"),
)
SMALL = dict(embed_dim=48, depth=2, num_heads=2)


@dataclass
class Said:
    """A source's own words on one batch of images: patches [B,P,Dv], pooled [B,Dv], embedding."""

    patches: Tensor
    pooled: Tensor
    embedding: Tensor


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """No weight, norm or bias at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        with torch.no_grad():
            weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def timm_model(arch: str, **options) -> nn.Module:
    return randomised(timm.create_model(arch, num_classes=0, **options))


def say_timm(model: nn.Module, image: Tensor) -> Said:
    tokens = model.forward_features(image)
    pooled = model.forward_head(tokens, pre_logits=True)
    return Said(tokens[:, model.num_prefix_tokens :], pooled, pooled)


TIMM: dict[str, Callable[[], nn.Module]] = {
    "vit_tiny": lambda: timm_model("vit_tiny_patch16_224", img_size=64, **SMALL),
    "deit": lambda: timm_model("deit_tiny_patch16_224", img_size=64, **SMALL),
    "deit3": lambda: timm_model("deit3_small_patch16_224", img_size=64, **SMALL),
    "registers": lambda: timm_model("vit_small_patch14_reg4_dinov2", img_size=56, **SMALL),
    "swiglu": lambda: timm_model("vit_giant_patch14_dinov2", img_size=56, **SMALL),
    "siglip": lambda: timm_model("vit_base_patch16_siglip_224", img_size=64, **SMALL),
    "gap": lambda: timm_model("vit_base_patch16_gap_224", img_size=64, **SMALL),
    "norm_after_pool": lambda: timm_model(
        "vit_tiny_patch16_224", img_size=64, global_pool="avg", **SMALL
    ),
    "quickgelu": lambda: timm_model("vit_base_patch32_clip_quickgelu_224", img_size=64, **SMALL),
}


ROTARY = {  # name of a row -> timm's name
    "eva02": "eva02_base_patch14_224",
    "eva02_clip": "eva02_base_patch16_clip_224",
    "dinov3": "vit_small_patch16_dinov3",
    "dinov3_gated": "vit_small_plus_patch16_dinov3_qkvb",
    "pe_core": "vit_pe_core_base_patch16_224",
    "pe_spatial": "vit_pe_spatial_small_patch16_512",
    "rope": "vit_small_patch16_rope_224",
}
TIMM |= {
    name: lambda arch=arch: timm_model(arch, img_size=56 if "14" in arch else 64, **SMALL)
    for name, arch in ROTARY.items()
}
TIMM["siglip2"] = lambda: timm_model("vit_base_patch16_siglip_gap_224", img_size=64, **SMALL)


def clip(act: str = "quick_gelu") -> nn.Module:
    config = transformers.CLIPConfig(
        text_config={**TEXT, "hidden_act": act},
        vision_config={**VISION, "intermediate_size": 50, "hidden_act": act},
        projection_dim=16,
    )
    return randomised(transformers.CLIPModel(config))


def siglip() -> nn.Module:
    config = transformers.SiglipConfig(
        text_config={**TEXT, "projection_size": 24, "pad_token_id": 1},
        vision_config={**VISION, "intermediate_size": 50},
    )
    return randomised(transformers.SiglipModel(config))


def hf(kind: str, **options) -> nn.Module:
    config, model = (getattr(transformers, f"{kind}{end}") for end in ("Config", "Model"))
    return randomised(model(config(**VISION, **options)))


def metaclip_2() -> nn.Module:
    config = transformers.MetaClip2Config(
        text_config={**TEXT, "hidden_act": "gelu", "pad_token_id": 1},
        vision_config={**VISION, "intermediate_size": 50, "hidden_act": "gelu"},
        projection_dim=16,
    )
    return randomised(transformers.MetaClip2Model(config))


def siglip2() -> nn.Module:
    """As google/siglip2-base-patch16-224 is read: Gemma's words, padded with 0."""
    config = transformers.SiglipConfig(
        text_config={**TEXT, "projection_size": 24, "pad_token_id": 0, "eos_token_id": 1},
        vision_config={**VISION, "intermediate_size": 50, "hidden_act": "gelu_pytorch_tanh"},
    )
    return randomised(transformers.SiglipModel(config))


def dinov3(**options) -> nn.Module:
    vision = {**VISION, "hidden_size": 32, "intermediate_size": 48, "image_size": 64}
    return randomised(
        transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(**vision, num_register_tokens=4, **options)
        )
    )


HF: dict[str, Callable[[], nn.Module]] = {
    "clip": clip,
    "clip_gelu": lambda: clip("gelu"),
    "siglip": siglip,
    "dinov2": lambda: hf("Dinov2"),
    "dinov2_swiglu": lambda: hf("Dinov2", use_swiglu_ffn=True),
    "dinov2_with_registers": lambda: hf("Dinov2WithRegisters"),
    "dinov3": dinov3,
    "dinov3_gated": lambda: dinov3(use_gated_mlp=True, hidden_act="silu"),
    "metaclip_2": metaclip_2,
    "siglip2": siglip2,
    "vit": lambda: hf("ViT", intermediate_size=50, qkv_bias=False),
}


def say_hf(model: nn.Module, image: Tensor) -> Said:
    kind = model.config.model_type
    vision = getattr(model, "vision_model", model)
    found = vision(pixel_values=image)
    states, pooled = found.last_hidden_state, found.pooler_output
    if kind in ("clip", "metaclip_2"):
        states = vision.post_layernorm(states)
    prefix = {"siglip": 0, "dinov2_with_registers": 5, "dinov3_vit": 5}.get(kind, 1)
    if kind == "vit":  # its pooler, a tanh layer on top, is not part of a run folder
        pooled = states[:, 0]
    embedding = pooled
    if vision is not model:
        embedding = model.get_image_features(pixel_values=image).pooler_output
    return Said(states[:, prefix:], pooled, embedding)


def open_clip_siglip() -> nn.Module:
    trunk = dict(image_size=160, timm_model_name="test_vit3", timm_pool="map", timm_proj="none")
    return randomised(CustomTextCLIP(96, trunk, SIGLIP_TEXT, init_logit_bias=-10))


def open_clip_linear() -> nn.Module:
    trunk = dict(image_size=160, timm_model_name="test_vit", timm_pool="avg", timm_proj="linear")
    return randomised(CustomTextCLIP(16, trunk, {**OPEN_TEXT, "pool_type": "eos", "eos_id": 7}))


def open_clip_pe() -> nn.Module:
    """As open_clip's PE-Core-B-16: a timm trunk that pools and projects by itself."""
    trunk = dict(
        image_size=224,
        timm_model_name="vit_pe_core_tiny_patch16_384",
        timm_pool="map",
        timm_proj=None,
        timm_model_pretrained=False,
    )
    return randomised(CustomTextCLIP(16, trunk, {**OPEN_TEXT, "pool_type": "argmax"}))


def open_clip_vit(quick_gelu: bool = False, **vision) -> nn.Module:
    return randomised(CLIP(16, {**OPEN_VISION, **vision}, OPEN_TEXT, quick_gelu=quick_gelu))


OPEN_CLIP: dict[str, Callable[[], nn.Module]] = {
    "pe_core": open_clip_pe,
    "openai": lambda: open_clip_vit(quick_gelu=True),
    "laion": open_clip_vit,
    "layer_scale": lambda: open_clip_vit(ls_init_value=0.1),
    "avg_no_pre_norm": lambda: open_clip_vit(
        pool_type="avg", final_ln_after_pool=True, no_ln_pre=True
    ),
    "siglip": open_clip_siglip,
    "timm_linear": open_clip_linear,
}


def say_open_clip(model: nn.Module, image: Tensor) -> Said:
    visual, embedding = model.visual, model.encode_image(image)
    if hasattr(visual, "trunk"):
        said = say_timm(visual.trunk, image)
        return Said(said.patches, said.pooled, embedding)
    projection, visual.proj, visual.output_tokens = visual.proj, None, True
    pooled, patches = visual(image)
    visual.proj, visual.output_tokens = projection, False
    return Said(patches, pooled, embedding)
