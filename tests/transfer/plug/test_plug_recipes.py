"""What comes with a backbone: pixels, padding, depths and the optimizer of the config it goes
into.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn import functional as F

from sparc_pretrain import run_folder
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from tests.commands import ROOT, call
from transfer import mm
from transfer.plug import explain, plug
from transfer.plug.optimizer import note_optimizer
from transfer.plug.replace import Ledger
from transfer.run import recipe

MEAN, STD = (0.5, 0.25, 0.5), (0.125, 0.25, 0.5)


def a_run(folder: Path, width: int = 24, depth: int = 2) -> run_folder.RunFolder:
    overrides = dict(embed_dim=width, depth=depth, num_heads=2)
    model = DualEncoder(
        VisionTower("vit_tiny_patch16_224", 32, overrides=overrides),
        TextTower(vocab_size=40, width=24, layers=1, heads=2, max_tokens=10),
        16,
        mean=MEAN,
        std=STD,
    )
    return model.save_pretrained(folder / "run", {"objective": {"type": "Sparc"}})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> run_folder.RunFolder:
    return a_run(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> run_folder.RunFolder:
    return a_run(tmp_path_factory.mktemp("deep"), width=48, depth=24)


# ------------------------------------------------------------------ README's route by hand


def by_hand(folder: Path, run: Path, base: str) -> Path:
    """README's "by hand", with the width of a ViT-B, on `base`."""
    path = folder / "hand.py"
    path.write_text(f"""
_base_ = {base!r}
custom_imports = dict(imports=["transfer"])
model = dict(
    backbone=dict(_delete_=True, type="sparc.SparcViT", run={str(run)!r}),
    neck=dict(
        _delete_=True, type="sparc.SimplePyramid", in_channels=768, strides=(4, 8, 16, 32, 64)
    ),
)
""")
    return path


@pytest.mark.parametrize(
    "base",
    ["mmdet::faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py",
     "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"],
)  # fmt: skip
def test_a_run_named_by_hand_gets_its_own_pixels_and_width(
    base: str, run: run_folder.RunFolder, tmp_path: Path
) -> None:
    cfg = recipe.load(str(by_hand(tmp_path, run.path, base)), None, str(tmp_path / "work"))
    pixels = cfg.model.data_preprocessor
    assert pixels.mean == pytest.approx([127.5, 63.75, 127.5])
    assert pixels.std == pytest.approx([31.875, 63.75, 127.5]) and pixels.bgr_to_rgb
    assert cfg.model.neck.in_channels == 24
    assert cfg.ancestry["sha256"] == run.sha256


def test_another_run_on_top_of_one_named_by_hand_takes_its_place_and_passes_forward(
    run: run_folder.RunFolder, deep: run_folder.RunFolder, tmp_path: Path
) -> None:
    path = by_hand(tmp_path, run.path, "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py")
    cfg = recipe.load(str(path), None, str(tmp_path / "work"), backbone=str(deep.path))
    with DefaultScope.overwrite_default_scope("mmdet"):
        backbone, neck = MODELS.build(cfg.model.backbone), MODELS.build(cfg.model.neck)
    with torch.no_grad():
        maps = neck(backbone(torch.zeros(1, 3, 64, 64)))
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2, 1]


def test_a_preprocessor_that_normalises_nothing_is_told_to(run: run_folder.RunFolder) -> None:
    backbone = dict(type="sparc.SparcViT", vision=dict(arch="vit_base_patch16_224", width=768))
    pixels = dict(type="DetDataPreprocessor", pad_size_divisor=32)  # as YOLOX has it
    cfg = Config(dict(model=dict(type="Any", data_preprocessor=pixels, backbone=backbone)))
    plug(cfg, run.path)
    assert cfg.model.data_preprocessor.mean == pytest.approx([127.5, 63.75, 127.5])
    assert cfg.model.data_preprocessor.bgr_to_rgb


# ------------------------------------------------------------------ depths

UPERNETS = ("ade20k", "voc", "coco_stuff", "context", "cityscapes")


@pytest.mark.parametrize("name", UPERNETS)
def test_a_deeper_tower_is_read_to_its_end(name: str, deep: run_folder.RunFolder) -> None:
    cfg = Config.fromfile(ROOT / "configs" / "seg" / f"sparc_{name}.py")
    assert tuple(cfg.model.backbone.out_indices) == (3, 5, 7, 11)
    plug(cfg, deep.path)
    assert list(cfg.model.backbone.out_indices) == [7, 11, 15, 23]


def test_no_weight_of_a_deeper_tower_is_without_a_gradient(deep: run_folder.RunFolder) -> None:
    cfg = Config.fromfile(ROOT / "configs" / "seg" / "sparc_ade20k.py")
    plug(cfg, deep.path)
    backbone = MODELS.build(cfg.model.backbone)
    sum(m.sum() for m in backbone(torch.rand(1, 3, 32, 32))).backward()
    idle = [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    # the last norm is of the last map alone
    assert idle == []


# ------------------------------------------------------------------ whole patches


class Pooled(torch.nn.Module):
    """A backbone that sees perfectly: the mean colour of each patch, padded as SparcViT pads."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % 16, 0, -height % 16))
        return (F.avg_pool2d(image, 16),)


SEGMENTORS = (
    "configs/quickstart/seg.py",
    "configs/seg/sparc_ade20k.py",
    "mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py",
)


@pytest.mark.parametrize("config", SEGMENTORS)
def test_a_perfect_model_is_not_stretched_over_photographs_that_are_not_whole_patches(
    config: str, run: run_folder.RunFolder
) -> None:
    cfg = plug(config if "::" in config else str(ROOT / config), run.path)
    mm.register("mmseg")
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.structures import SegDataSample

    recipe.single_process_norms(cfg.model)
    head = dict(type="FCNHead", in_channels=3, channels=3, num_convs=0, num_classes=2,
                concat_input=False, align_corners=False)  # fmt: skip
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = EncoderDecoder(
            backbone=dict(type="ResNet", depth=18), decode_head=head,
            data_preprocessor=cfg.model.data_preprocessor, test_cfg=ConfigDict(mode="whole"),
        )  # fmt: skip
    model.backbone = Pooled()
    with torch.no_grad():  # class 1 where red is above the mean
        model.decode_head.conv_seg.weight.zero_()
        model.decode_head.conv_seg.weight[:, 0, 0, 0] = torch.tensor([-1.0, 1.0])
        model.decode_head.conv_seg.bias.zero_()
    height, width = 16 * 11 + 4, 16 * 11 + 4
    truth = np.zeros((height, width), np.int64)
    truth[:, 160:] = 1  # a class at the right, as wide as what is padded
    truth[:, 64:80] = 1
    red = torch.from_numpy(np.where(truth, 255, 0)).to(torch.uint8)
    image = torch.stack([torch.zeros_like(red), torch.zeros_like(red), red])  # BGR
    sample = SegDataSample(metainfo=dict(ori_shape=(height, width), img_shape=(height, width)))
    model.eval()
    with torch.no_grad():
        (found,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    labels = found.pred_sem_seg.data[0].numpy()
    assert labels.shape == truth.shape
    overlap = [((labels == k) & (truth == k)).sum() / ((labels == k) | (truth == k)).sum()
               for k in (0, 1)]  # fmt: skip
    assert min(overlap) > 0.97, overlap


def test_every_segmentation_config_of_ours_pads_tests_to_whole_patches() -> None:
    paths = [p for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts]
    found = [Config.fromfile(p) for p in paths if "seg" in p.stem or p.parent.name == "seg"]
    assert len(found) >= 9
    for cfg in found:
        divisor = cfg.model.data_preprocessor.get("test_cfg", {}).get("size_divisor", 0)
        assert divisor and divisor % 16 == 0, cfg.filename


# ------------------------------------------------------------------ optimizers


def changes(config: str, run: run_folder.RunFolder, **options: Any) -> tuple[Config, list[str]]:
    from transfer.plug.config import read

    cfg = read(config)
    return cfg, [str(change) for change in explain(cfg, run.path, **options)]


def test_the_ledger_says_that_sgd_stays(run: run_folder.RunFolder) -> None:
    _, told = changes("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", run)
    (line,) = [line for line in told if line.startswith("optim_wrapper.optimizer")]
    assert "SGD" in line and "0.01" in line and "stays" in line and "--adamw" in line


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
        "mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
        "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    ],
)
def test_the_ledger_says_that_an_adamw_which_stays_decays_positions(run, name) -> None:
    """And it does, unless it is told of `--layer-decay 1`."""
    from mmengine.optim import build_optim_wrapper

    positions = "backbone.tower.net.pos_embed"
    for options, wanted in (({}, True), (dict(layer_decay=1.0), False)):
        cfg, told = changes(name, run, **options)
        lines = [line for line in told if line.startswith("optim_wrapper.optimizer")]
        assert len(lines) == wanted and all("--layer-decay 1" in line for line in lines)
        cfg.optim_wrapper.type = "OptimWrapper"
        model = nn.ModuleDict(dict(backbone=MODELS.build(cfg.model.backbone)))
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
        place = model.get_parameter(positions)
        (group,) = [group for group in groups if any(one is place for one in group["params"])]
        assert (group["weight_decay"] > 0) == wanted
    cfg, _ = changes(name, run)
    cfg.optim_wrapper.setdefault("paramwise_cfg", {}).setdefault("custom_keys", {})
    cfg.optim_wrapper.paramwise_cfg.custom_keys["tower.net.pos_embed"] = dict(decay_mult=0.0)
    ledger = Ledger()
    note_optimizer(cfg, ledger)
    assert not ledger.changes


def test_adamw_takes_the_place_of_the_old_optimizer_and_decays_no_vectors(
    run: run_folder.RunFolder,
) -> None:
    cfg, told = changes("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", run, adamw=True)
    assert cfg.optim_wrapper.optimizer.type == "AdamW" and cfg.optim_wrapper.optimizer.lr == 1e-4
    assert any("SGD" in line and "AdamW" in line for line in told)
    layered, _ = changes(
        "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", run, adamw=True, layer_decay=0.7
    )
    assert layered.optim_wrapper.paramwise_cfg.layer_decay == 0.7
    cfg.optim_wrapper.type = "OptimWrapper"
    from mmengine.optim import build_optim_wrapper

    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in wrapper.optimizer.param_groups:
        flat = [p.ndim <= 1 for p in group["params"]]
        assert not (any(flat) and group["weight_decay"]), "biases and norms are not decayed"
    assert {g["weight_decay"] for g in wrapper.optimizer.param_groups} == {0.0, 0.05}


def test_adamw_without_a_backbone_is_refused(tmp_path: Path) -> None:
    config = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    code, said = call("train", config, "--adamw", "--work-dir", tmp_path)
    assert code == 2 and "--adamw needs --backbone" in said


def test_queries_of_mask2former_and_vectors_of_the_small_recipes_are_not_decayed() -> None:
    cfg = Config.fromfile(ROOT / "configs/seg/sparc_ade20k_mask2former.py")
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    for name in ("query_embed", "query_feat", "level_embed"):
        assert keys[name].decay_mult == 0
    for name in ("quickstart/det", "quickstart/seg", "coco_subset/mask_rcnn"):
        wrapper = Config.fromfile(ROOT / f"configs/{name}.py").optim_wrapper
        assert wrapper.constructor == "LayerDecayConstructor", name
        assert wrapper.paramwise_cfg.layer_decay == 1.0
