"""SparcViT: a run's tower, whole or not at all, as the backbone of any mm model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain import run_folder
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.vision import VisionTower
from transfer import mm
from transfer.backbone import SparcViT

SMALL = dict(embed_dim=24, depth=4, num_heads=2)
INLINE = dict(arch="vit_tiny_patch16_224", img_size=64, overrides=SMALL)


def make_run(folder: Path, seed: int = 0, img_size: int = 64, **overrides: Any) -> Path:
    """A vision-only run folder of a small tower with random weights."""
    torch.manual_seed(seed)
    tower = VisionTower("vit_tiny_patch16_224", img_size, overrides={**SMALL, **overrides})
    for weight in tower.parameters():  # no norm or bias at its initial value
        torch.nn.init.normal_(weight, std=0.2)
    DualEncoder(tower, None, 16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("work") / "run")


def loaded(run: Path, **options: Any) -> SparcViT:
    backbone = SparcViT(run=str(run), **options)
    backbone.init_weights()
    return backbone


def images(height: int = 64, width: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ weights


def test_every_weight_of_the_run_is_taken_by_init_weights_and_not_before(run: Path) -> None:
    wanted = run_folder.open_run(run).weights("vision.")
    backbone = SparcViT(run=str(run))
    assert not torch.equal(
        backbone.tower.state_dict()["net.norm.weight"], wanted["net.norm.weight"]
    )
    backbone.init_weights()
    found = backbone.tower.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("indices", [(-1,), (0, 2, 3)])
def test_the_maps_are_exactly_those_of_the_pretrained_encoder(
    run: Path, indices: tuple[int, ...]
) -> None:
    backbone = loaded(run, out_indices=indices).eval()
    tower = DualEncoder.from_pretrained(run).vision
    wanted, found = tower.maps(images(), indices), backbone(images())
    assert len(found) == len(indices) and found[0].shape == (2, 24, 4, 4)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_a_work_dir_is_as_good_as_the_run_folder_in_it(run: Path) -> None:
    assert torch.equal(loaded(run.parent)(images())[0], loaded(run)(images())[0])


def test_a_run_of_another_width_is_refused_with_shapes_and_the_remedy(tmp_path: Path) -> None:
    other = make_run(tmp_path / "run", embed_dim=48)
    backbone = SparcViT(run=str(other), vision=INLINE)
    with pytest.raises(ValueError, match=r"net\.\S+ \(.*48.*\) for \(.*24.*remove `vision`"):
        backbone.init_weights()


def test_a_deeper_run_is_refused_naming_the_first_unknown_keys(tmp_path: Path) -> None:
    other = make_run(tmp_path / "run", depth=5)
    with pytest.raises(ValueError, match=r"unknown \['net\.blocks\.4\."):
        SparcViT(run=str(other), vision=INLINE).init_weights()


def test_a_partial_run_is_refused_naming_what_is_missing(run: Path, tmp_path: Path) -> None:
    opened = run_folder.open_run(run)
    weights = {k: v for k, v in opened.weights().items() if ".blocks.2." not in k}
    run_folder.write(tmp_path / "part", opened.config, weights, None)
    with pytest.raises(run_folder.InvalidRunFolder, match=r"missing \['net\.blocks\.2\."):
        SparcViT(run=str(tmp_path / "part"))
    before = SparcViT(run=str(tmp_path / "part"), vision=opened.config["vision"])
    state = {k: v.clone() for k, v in before.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing \['net\.blocks\.2\."):
        before.init_weights()
    assert all(torch.equal(v, state[k]) for k, v in before.state_dict().items())


def test_folders_that_are_no_runs_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(run_folder.InvalidRunFolder, match=r"manifest\.json is missing"):
        SparcViT(run=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no run folder at"):
        SparcViT(run=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="run=FOLDER"):
        SparcViT()
    with pytest.raises(ValueError, match="init_cfg"):
        SparcViT(vision=INLINE, init_cfg=dict(type="Pretrained", checkpoint="x.pth"))


class Headless(BaseModel):
    """A backbone with the least of a model around it."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.backbone = SparcViT(run=str(run))

    def forward(self, x: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        return {"loss": 0 * self.backbone(x)[0].sum()}


@pytest.mark.parametrize("resume", [False, True])
def test_a_checkpoint_that_the_runner_loads_wins_over_the_run(
    run: Path, tmp_path: Path, resume: bool
) -> None:
    def runner(work_dir: Path, steps: int, **options: Any) -> Runner:
        return Runner(
            model=Headless(run),
            work_dir=str(work_dir),
            train_dataloader=dict(
                dataset=[{"x": torch.zeros(3, 32, 32)}],
                batch_size=1,
                sampler=dict(type="InfiniteSampler"),
                collate_fn=dict(type="default_collate"),
            ),
            train_cfg=dict(type="IterBasedTrainLoop", max_iters=steps),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.0)),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1)),
            experiment_name=f"{tmp_path.name}-{work_dir.name}",
            log_level="ERROR",
            **options,
        )

    first = runner(tmp_path / "a", 1)
    for weight in first.model.parameters():
        torch.nn.init.normal_(weight)
    first.model.backbone.run = None  # as if training had moved the weights
    first.train()
    wanted = first.model.state_dict()
    checkpoint = str(tmp_path / "a" / "iter_1.pth")
    second = runner(tmp_path / "b", 2, load_from=checkpoint, resume=resume)
    second.train()
    found = second.model.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# ------------------------------------------------------------------ architecture


def test_with_the_architecture_inline_no_run_folder_is_needed(run: Path, tmp_path: Path) -> None:
    vision = run_folder.open_run(run).config["vision"]
    trained = loaded(run)
    alone = SparcViT(vision=vision, run=str(tmp_path / "gone"))
    alone.load_state_dict(trained.state_dict())
    assert torch.equal(alone(images())[0], trained(images())[0])
    random = SparcViT(vision=vision)
    random.init_weights()
    assert random(images())[0].shape == (2, 24, 4, 4)


def test_the_config_that_is_handed_in_is_left_as_it_was(tmp_path: Path) -> None:
    make_run(tmp_path / "run", patch_size=8)
    vision = run_folder.open_run(tmp_path / "run").config["vision"]
    before = {**vision, "overrides": dict(vision["overrides"])}
    SparcViT(vision=vision)
    assert vision == before


@pytest.mark.parametrize(
    ("height", "width", "h", "w"),
    [(32, 96, 2, 6), (65, 40, 5, 3), (1, 17, 1, 2), (160, 160, 10, 10)],
)
def test_any_image_size_gives_a_map_of_the_stride(
    run: Path, height: int, width: int, h: int, w: int
) -> None:
    backbone = loaded(run)
    assert (backbone.stride, backbone.out_channels) == (16, 24)
    found = backbone(images(height, width))[0]
    assert found.shape == (2, 24, h, w) and found.isfinite().all()


def test_the_pad_is_of_zeros_at_the_bottom_and_right(run: Path) -> None:
    backbone, image = loaded(run), images(50, 60)
    padded = F.pad(image, (0, 4, 0, 14))
    assert torch.equal(backbone(image)[0], backbone(padded)[0])


def test_a_run_of_patch_8_is_resampled_to_16_and_sees_the_same_in_enlarged_patches(
    tmp_path: Path,
) -> None:
    make_run(tmp_path / "run", patch_size=8, img_size=32)
    small, large = loaded(tmp_path / "run", patch=None), loaded(tmp_path / "run")
    assert (small.stride, large.stride) == (8, 16)
    assert large.tower.img_size == 64 and small.tower.img_size == 32
    image = images(32, 32)
    patches = F.unfold(image, 8, stride=8).mT.reshape(-1, 3, 8, 8)
    patches = F.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True)
    enlarged = F.fold(patches.reshape(2, 16, -1).mT, (64, 64), 16, stride=16)
    torch.testing.assert_close(large(enlarged)[0], small(image)[0], rtol=1e-3, atol=1e-3)


def test_windows_and_their_global_blocks_change_the_maps(run: Path) -> None:
    image = images(96, 96)
    assert loaded(run, window=2).global_blocks == (0, 1, 2, 3)
    whole = loaded(run)(image)[0]
    windowed = loaded(run, window=2, global_blocks=(3,))(image)[0]
    assert torch.equal(loaded(run, window=2)(image)[0], whole)  # all four blocks are global
    assert windowed.shape == whole.shape and not torch.allclose(windowed, whole, atol=1e-3)


# ------------------------------------------------------------------ training


def trained_names(backbone: SparcViT) -> set[str]:
    backbone.train()
    sum(m.square().mean() for m in backbone(images())).backward()
    return {name for name, p in backbone.named_parameters() if p.grad is not None}


def test_a_frozen_tower_has_no_gradient_and_stays_in_eval_mode(run: Path) -> None:
    backbone = loaded(run, frozen=True, drop_path_rate=0.9).train()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.tower.modules())
    assert torch.equal(backbone(images())[0], loaded(run).eval()(images())[0])
    assert not backbone(images())[0].requires_grad


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_number_freezes_the_embedding_and_the_first_blocks(run: Path, blocks: int) -> None:
    backbone = loaded(run, frozen=blocks, drop_path_rate=0.5)
    moving = trained_names(backbone)
    frozen = {name for name, _ in backbone.named_parameters()} - moving
    still = tuple(f"tower.net.blocks.{i}." for i in range(blocks))
    assert {n for n in frozen if n.startswith(still)} and frozen == {
        name
        for name, _ in backbone.named_parameters()
        if name.startswith((*still, "tower.net.patch_embed.")) or name == "tower.net.pos_embed"
    }
    modes = [block.training for block in backbone.tower.net.blocks]
    assert modes == [i >= blocks for i in range(4)]
    assert not backbone.tower.net.patch_embed.training


def test_an_open_tower_trains_every_weight(run: Path) -> None:
    backbone = loaded(run)
    assert trained_names(backbone) == {name for name, _ in backbone.named_parameters()}


def test_recomputing_the_blocks_changes_no_gradient(run: Path) -> None:
    plain, frugal = loaded(run), loaded(run, with_cp=True)
    for backbone in (plain, frugal):
        trained_names(backbone)
    assert frugal.tower.grad_checkpointing and not plain.tower.grad_checkpointing
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
def test_the_registries_of_mmdet_and_mmseg_build_it(run: Path, scope: str) -> None:
    mm.register(scope)
    if scope == "mmdet":
        from mmdet.registry import MODELS
    else:
        from mmseg.registry import MODELS
    backbone = MODELS.build(dict(type="sparc.SparcViT", run=str(run), out_indices=(1, 3)))
    backbone.init_weights()
    assert isinstance(backbone, SparcViT) and len(backbone(images())) == 2
