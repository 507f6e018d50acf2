"""Parameter groups: which parameters decay, and at which rate each learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from tests.models import TEXT, VISION, batch, pretrainer
from tests.parameter_groups import assert_only_matrices_decay, groups_of

LR, WD = 0.1, 0.2


def wrapper(model: nn.Module, **options: Any):
    return build_optim_wrapper(
        model,
        dict(
            type="sparc.GuardedOptimWrapper",
            optimizer=dict(type="AdamW", lr=LR, weight_decay=WD),
            constructor="GroupedConstructor",
            **options,
        ),
    )


VISIONS = {
    "as SPARC trains it": dict(),
    "class token": dict(class_token=True, global_pool="token"),
    "registers, attention pool": dict(reg_tokens=4, global_pool="map"),
    "CLIP": dict(class_token=True, global_pool="token", pre_norm=True, norm_eps=1e-5),
    "DINOv2": dict(class_token=True, reg_tokens=4, init_values=1e-5, no_embed_class=True),
    "gated": dict(mlp_layer="swiglu_packed", qk_norm=True),
}


@pytest.mark.parametrize("kind", VISIONS)
def test_only_matrices_of_a_vision_tower_decay(kind: str) -> None:
    overrides = {**VISION["overrides"], **VISIONS[kind]}
    model = VisionTower(**{**VISION, "overrides": overrides})
    assert_only_matrices_decay(model, wrapper(model), WD)


@pytest.mark.parametrize(
    "arch", ["deit_tiny_distilled_patch16_224", "vit_tiny_r_s16_p8_224", "beit3_base_patch16_224"]
)
def test_only_matrices_of_other_plain_transformers_decay(arch: str) -> None:
    with torch.device("meta"):
        model = VisionTower(arch, overrides=dict(class_token=True, global_pool="token"))
    assert_only_matrices_decay(model, wrapper(model), WD)


@pytest.mark.parametrize("causal", [False, True], ids=["SigLIP", "CLIP"])
def test_only_matrices_of_a_text_tower_decay(causal: bool) -> None:
    model = TextTower(**TEXT, style=dict(causal=causal))
    built = wrapper(model)
    assert_only_matrices_decay(model, built, WD)
    assert groups_of(model, built)["net.embeddings.position_embedding.weight"] == (LR, 0.0)
    assert groups_of(model, built)["net.embeddings.token_embedding.weight"] == (LR, WD)


def test_a_step_moves_the_temperature_by_its_gradient_alone() -> None:
    """AdamW's first step is lr * sign(gradient): decay at 0.2 * 0.1 of 2.66 would add 0.053."""
    torch.manual_seed(0)
    model = pretrainer(dict(type="Clip"))
    built, before = wrapper(model), model.objective.temperature.log_scale.item()
    model.train_step(batch(), built)
    moved = model.objective.temperature.log_scale.item() - before
    assert abs(moved) == pytest.approx(LR, abs=1e-4)


def test_what_the_config_says_of_single_parameters_is_multiplied_in() -> None:
    """As mm's own constructor reads custom_keys: the longest key that is part of the name."""
    model = pretrainer(dict(type="Gloria"))
    keys = {"adapters": dict(lr_mult=2.0, decay_mult=0.5), "adapters.g_t": dict(lr_mult=3.0)}
    plain = groups_of(model, wrapper(model))
    keyed = groups_of(model, wrapper(model, paramwise_cfg=dict(custom_keys=keys)))
    for name, (rate, decay) in plain.items():
        rates = 3.0 if "adapters.g_t" in name else 2.0 if "adapters" in name else 1.0
        decays = 0.5 if "adapters" in name and "adapters.g_t" not in name else 1.0
        assert keyed[name] == pytest.approx((rate * rates, decay * decays)), name
