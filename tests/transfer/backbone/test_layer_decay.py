"""Layer-wise learning rates, against the rule written out parameter by parameter."""

from __future__ import annotations

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import nn

from transfer.backbone import SparcViT

LR, WD, DECAY, DEPTH = 0.1, 0.05, 0.5, 3


class Model(BaseModel):
    """A backbone with a linear head."""

    def __init__(self, **options) -> None:
        super().__init__()
        overrides = dict(embed_dim=24, depth=DEPTH, num_heads=2)
        vision = dict(arch="vit_tiny_patch16_224", img_size=32, overrides=overrides)
        self.backbone = SparcViT(vision=vision, **options)
        self.head = nn.Linear(24, 5)

    def forward(self, *args, **kwargs) -> None:
        """Never called."""


def wrapper(model: nn.Module, **paramwise):
    return plain_wrapper(model, paramwise_cfg=dict(layer_decay=DECAY, **paramwise))


def plain_wrapper(model: nn.Module, **options):
    return build_optim_wrapper(
        model,
        dict(
            type="sparc.GuardedOptimWrapper",
            optimizer=dict(type="AdamW", lr=LR, weight_decay=WD),
            constructor="LayerDecayConstructor",
            **options,
        ),
    )


def groups_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[str, dict] = {}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            assert names[id(weight)] not in found, "in two groups"
            found[names[id(weight)]] = group
    return found


def test_every_parameter_has_the_learning_rate_of_its_layer() -> None:
    model = Model()
    groups = groups_by_name(model, wrapper(model).optimizer)
    assert groups.keys() == dict(model.named_parameters()).keys()
    expected = {  # lr * decay^(n + 1 - layer), n = 3 blocks
        "backbone.tower.net.patch_embed.": LR * 0.5**4,
        "backbone.tower.net.pos_embed": LR * 0.5**4,
        "backbone.tower.net.blocks.0.": LR * 0.5**3,
        "backbone.tower.net.blocks.1.": LR * 0.5**2,
        "backbone.tower.net.blocks.2.": LR * 0.5,
        "backbone.tower.net.norm.": LR,
        "head.": LR,
    }
    for name, group in groups.items():
        (wanted,) = [lr for prefix, lr in expected.items() if name.startswith(prefix)]
        assert group["lr"] == pytest.approx(wanted), name


def test_without_a_paramwise_cfg_the_rates_fall_by_a_fifth_from_layer_to_layer() -> None:
    model = Model()
    told = groups_by_name(
        model, plain_wrapper(model, paramwise_cfg=dict(layer_decay=0.8)).optimizer
    )
    default = groups_by_name(model, plain_wrapper(model).optimizer)
    assert default["backbone.tower.net.pos_embed"]["lr"] == pytest.approx(LR * 0.8**4)
    for name, group in told.items():
        for key in ("lr", "weight_decay"):
            assert default[name][key] == group[key], name


def test_biases_norms_and_positions_have_no_weight_decay() -> None:
    model = Model()
    groups = groups_by_name(model, wrapper(model).optimizer)
    for name, weight in model.named_parameters():
        bare = weight.ndim == 1 or name.endswith("pos_embed")
        assert groups[name]["weight_decay"] == (0.0 if bare else WD), name


def test_frozen_weights_are_left_out() -> None:
    model = Model(frozen=2)
    groups = groups_by_name(model, wrapper(model).optimizer)
    assert groups.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert not any("blocks.1." in name for name in groups)
    assert any("blocks.2." in name for name in groups)


def test_a_model_without_our_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="SparcViT"):
        wrapper(nn.Sequential(nn.Linear(2, 2)))


def test_what_the_config_says_of_single_parameters_is_multiplied_in() -> None:
    """As mm's own constructor reads custom_keys: the longest key that is part of the name."""
    model = Model()
    keys = {"head": dict(lr_mult=0.5, decay_mult=0.0), "backbone": dict(lr_mult=0.1), "he": {}}
    plain = groups_by_name(model, wrapper(model).optimizer)
    keyed = groups_by_name(model, wrapper(model, custom_keys=keys).optimizer)
    for name, group in keyed.items():
        head = name.startswith("head")
        factor = 0.5 if head else 0.1
        assert group["lr"] == pytest.approx(factor * plain[name]["lr"]), name
        assert group["weight_decay"] == (0.0 if head else plain[name]["weight_decay"]), name
    assert plain["head.weight"]["weight_decay"] == WD
