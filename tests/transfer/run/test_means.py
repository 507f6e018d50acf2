"""A batch in parts, blocks that stay, a compiled backbone."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from torch import nn

from sparc_pretrain.engine.optim import GuardedOptimWrapper
from tests.transfer.small_sets import VISION
from transfer.backbone import SparcViT
from transfer.run.means import accumulate, compile_backbones, freeze


def by_iterations() -> Config:
    return Config(
        dict(
            train_dataloader=dict(batch_size=8),
            optim_wrapper=dict(type="sparc.GuardedOptimWrapper"),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=100, val_interval=50),
            param_scheduler=[
                dict(type="LinearLR", by_epoch=False, begin=0, end=10),
                dict(type="MultiStepLR", by_epoch=False, milestones=[60, 90]),
            ],
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=50)),
            custom_hooks=[dict(type="EMAHook")],
        )
    )


def test_a_batch_in_parts_makes_as_many_updates_of_as_many_images() -> None:
    cfg = accumulate(by_iterations(), 4)
    assert (cfg.train_dataloader.batch_size, cfg.optim_wrapper.accumulative_counts) == (2, 4)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (400, 200)
    assert cfg.param_scheduler[0].end == 40 and cfg.param_scheduler[1].milestones == [240, 360]
    assert cfg.default_hooks.checkpoint.interval == 200 and cfg.custom_hooks[0].interval == 4
    assert accumulate(by_iterations(), 1).to_dict() == by_iterations().to_dict()


def test_a_schedule_of_epochs_stays_but_for_its_warm_up() -> None:
    cfg = by_iterations()
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
    cfg.param_scheduler[1].update(by_epoch=True, end=12, milestones=[8, 11])
    cfg.default_hooks.checkpoint.update(by_epoch=True, interval=1)
    accumulate(cfg, 2)
    assert cfg.train_cfg.max_epochs == 12 and cfg.param_scheduler[0].end == 20
    assert cfg.param_scheduler[1].milestones == [8, 11]
    assert cfg.default_hooks.checkpoint.interval == 1


def test_the_gradient_of_parts_is_that_of_the_batch() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 5)

    def trained(parts: int) -> torch.Tensor:
        torch.manual_seed(1)
        model = nn.Linear(5, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        wrapper = GuardedOptimWrapper(optimizer, accumulative_counts=parts)
        wrapper.initialize_count_status(model, 0, 2 * parts)
        for _ in range(2):
            for part in x.chunk(parts):
                with wrapper.optim_context(model):
                    wrapper.update_params(model(part).square().mean())
        return model.weight.detach()

    torch.testing.assert_close(trained(4), trained(1))
    assert (trained(1) - trained(2)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("parts", "wrapper", "words"),
    [
        (3, {}, "does not divide"),
        (0, {}, "at least 1"),
        (2, dict(accumulative_counts=2), "already"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts: int, wrapper: dict, words: str) -> None:
    cfg = by_iterations()
    cfg.optim_wrapper.update(wrapper)
    with pytest.raises(ValueError, match=words):
        accumulate(cfg, parts)


def test_blocks_that_are_frozen_get_no_gradient() -> None:
    cfg = Config(dict(model=dict(backbone=dict(type="sparc.SparcViT", vision=VISION))))
    for blocks, trained in ((1, {"1"}), (0, {"0", "1"})):
        told = dict(freeze(cfg, blocks).model.backbone)
        tower = SparcViT(**{k: v for k, v in told.items() if k != "type"}).tower
        found = {n.split(".")[2] for n, p in tower.named_parameters()
                 if p.requires_grad and n.startswith("net.blocks")}  # fmt: skip
        assert found == trained
        assert tower.net.patch_embed.proj.weight.requires_grad is (blocks == 0)
    assert freeze(cfg, 2).model.backbone.frozen is True
    with pytest.raises(ValueError, match="has 2 blocks"):
        freeze(cfg, 3)
    with pytest.raises(ValueError, match="no SparcViT"):
        freeze(Config(dict(model=dict(backbone=dict(type="ResNet")))), 1)


@pytest.mark.parametrize("window", [0, 2])
def test_a_compiled_backbone_keeps_its_maps_and_the_names_of_its_weights(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    plain = nn.Module.compile

    def traced(module: nn.Module, **options) -> None:
        calls.append(type(module).__name__)
        plain(module, backend="eager", **options)  # no C++ compiler is needed to trace

    monkeypatch.setattr(nn.Module, "compile", traced)
    model = SparcViT(vision=VISION, window=window, global_blocks=(1,)).eval()
    image, names = torch.randn(1, 3, 64, 96), list(model.state_dict())
    with torch.no_grad():
        (before,) = model(image)
        compile_backbones(nn.Sequential(model))
        (after,) = model(image)
    torch.testing.assert_close(before, after)
    assert calls == ["Block", "Attention", "Mlp"] * 2 and list(model.state_dict()) == names
    with pytest.raises(ValueError, match="SparcViT"):
        compile_backbones(nn.Linear(2, 2))
