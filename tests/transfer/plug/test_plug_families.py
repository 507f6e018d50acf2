"""A tiny run folder plugged into stock configs of many families: each is built, takes a loss step
with a gradient in every weight of the backbone, and predicts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import transfer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.towers.text import TextTower
from sparc_pretrain.towers.vision import VisionTower
from tests.transfer.plug.trial import trial
from transfer import mm
from transfer.mm import ops
from transfer.plug import explain, plug, read, scope_of
from transfer.plug.contract import Contract, contract, measured, read_levels
from transfer.plug.exclusions import BACKBONES, MODEL_CLASSES, NECKS, Exclusion

WIDTH = 32
FAMILIES = (
    "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",  # FPN that starts at level 1
    "mmdet::detr/detr_r18_8xb2-500e_coco.py",  # one map through a ChannelMapper
    "mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",  # a neck that lists maps backwards
    "mmdet::pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py",  # no neck, a shared ResNet head
    "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",  # no pixel statistics of its own
    "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
    "mmdet::guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py",  # predicts one image at a time
    "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",  # loads no masks
    "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
    "mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",  # dilated, auxiliary head
    "mmseg::ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024.py",  # cascade of heads, HRNet
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",  # all levels in one head
    "mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py",  # maps with class tokens
    "mmseg::unet/unet-s5-d16_fcn_4xb4-40k_chase-db1-128x128.py",  # strides 1 and 2
    "mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py",  # not installed
)
REFUSED = {
    "mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py": "BiSeNetV1.*two-stream",
    "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py": "PIDNet.*three streams",
    "mmseg::icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py": "ICNet.*three streams",
    "mmseg::san/san-vit-b16_coco-stuff164k-640x640.py": "owns its image encoder.*CLIP",
    "mmseg::vpd/vpd_sd_4xb8-25k_nyu-480x480.py": "VPD.*diffusion",
    "mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py": "BaseMOTModel.*videos",
    "mmdet::detectors/cascade-rcnn_r50-rfp_1x_coco.py": "RFP.*feeds its output back",
    "mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py": "branches",
    "mmdet::misc/d2_mask-rcnn_r50-caffe_fpn_ms-90k_coco.py": "detectron2",
}


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """mmdet and mmseg, on the stand-in's kernels."""
    with ops.using("standin"):
        mm.register("mmdet", "mmseg")
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = DualEncoder(
        VisionTower(
            "vit_tiny_patch16_224", 32, overrides=dict(embed_dim=WIDTH, depth=4, num_heads=2)
        ),
        TextTower(vocab_size=300, width=24, layers=1, heads=2, max_tokens=10),
        16,
        mean=(0.25, 0.5, 0.75),
        std=(0.125, 0.25, 0.5),
    )
    return model.save_pretrained(tmp_path_factory.mktemp("work") / "run").path


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_trains_and_predicts_on_the_backbone(name: str, run: Path) -> None:
    cfg = transfer.plug(name, run)
    owner = cfg.model.get("detector") or cfg.model
    assert owner.backbone.type == "sparc.SparcViT" and owner.backbone.vision.width == WIDTH
    pixels = owner.data_preprocessor
    assert pixels.mean == pytest.approx([63.75, 127.5, 191.25]) and pixels.bgr_to_rgb
    losses = trial(cfg, scope_of(cfg))
    assert losses["loss"] > 0


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_take_it_is_refused_in_one_line_that_names_both_sides(
    name: str, run: Path
) -> None:
    cfg = read(name)
    before = cfg.model.to_dict()
    with pytest.raises(ValueError, match=rf"cannot take SparcViT.*{REFUSED[name]}") as caught:
        plug(cfg, run)
    assert "\n" not in str(caught.value) and ".py:" in str(caught.value)
    assert cfg.model.to_dict() == before and "ancestry" not in cfg


@pytest.mark.parametrize("one", [*MODEL_CLASSES, *BACKBONES, *NECKS], ids=lambda one: one.name)
def test_every_exclusion_points_at_a_line_that_is_there(one: Exclusion) -> None:
    path, line = one.place().split(":")
    assert path.endswith(".py") and int(line) > 1


# ------------------------------------------------------------------ the contract


@pytest.mark.parametrize(
    ("backbone", "channels", "strides"),
    [
        (dict(type="ResNet", depth=18), (64, 128, 256, 512), (4, 8, 16, 32)),
        (
            dict(type="ResNet", depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
            (64, 128, 256, 512),
            (4, 8, 8, 8),
        ),
        (
            dict(
                type="ResNet",
                depth=18,
                out_indices=(2,),
                dcn=dict(type="DCNv2", deform_groups=1),
                norm_cfg=dict(type="SyncBN"),
            ),
            (256,),
            (16,),
        ),
        (dict(type="SSDVGG", depth=16, ceil_mode=True, out_indices=(3, 4)), (512, 1024), (8, 16)),
    ],
)
def test_an_old_backbone_is_built_and_measured(backbone, channels, strides) -> None:
    owner = Config(dict(m=dict(backbone=backbone))).m
    found = measured(owner.backbone, "mmdet")
    assert (found.channels, found.strides) == (channels, strides)


def test_a_backbone_that_is_not_installed_is_read_off_its_neck_or_heads() -> None:
    backbone = dict(type="mmpretrain.ConvNeXt", arch="tiny")
    neck = dict(type="FPN", in_channels=[192, 384, 768])
    found = contract(Config(dict(m=dict(backbone=backbone, neck=neck))).m, "mmdet")
    assert (found.channels, found.strides) == ((192, 384, 768), (8, 16, 32))
    assert "strides assumed" in found.source
    heads = dict(
        decode_head=dict(in_channels=768, in_index=3),
        auxiliary_head=[dict(in_channels=384, in_index=2)],
    )
    owner = Config(dict(m=dict(backbone=backbone, **heads))).m
    found = contract(owner, "mmseg")
    assert (found.channels, found.strides) == ((0, 0, 384, 768), (4, 8, 16, 32))
    assert read_levels(owner, found, "mmseg") == [False, False, True, True]
    with pytest.raises(ValueError, match=r"ConvNeXt cannot be built.*SparcViT cannot take"):
        contract(Config(dict(m=dict(backbone=backbone))).m, "mmdet")


def test_levels_that_a_neck_does_not_read_are_found_by_asking_it() -> None:
    promise = Contract((64, 128, 256, 512), (4, 8, 16, 32))
    neck = dict(type="FPN", in_channels=[64, 128, 256, 512], out_channels=8, num_outs=3)
    for start, expected in ((0, [True] * 4), (2, [False, False, True, True])):
        owner = Config(dict(m=dict(neck=dict(neck, start_level=start)))).m
        assert read_levels(owner, promise, "mmdet") == expected
    unknown = Config(dict(m=dict(neck=dict(type="MyOwnNeck")))).m
    assert read_levels(unknown, promise, "mmdet") == [True] * 4


def test_the_low_level_branch_of_deeplab_is_read_as_well() -> None:
    promise = Contract((256, 512, 1024, 2048), (4, 8, 8, 8))
    head = dict(in_channels=2048, in_index=3, c1_in_channels=256)
    owner = Config(dict(m=dict(decode_head=head))).m
    assert read_levels(owner, promise, "mmseg") == [True, False, False, True]


# ------------------------------------------------------------------ what changes, what stays


class Echo(nn.Module):
    """A user's own head, which mm knows nothing of."""

    def __init__(self, whatever: int, widths: tuple[int, ...], **kwargs) -> None:
        super().__init__()
        self.widths, self.convs = widths, nn.ModuleList(nn.Conv2d(w, 1, 1) for w in widths)


def own_head(**backbone) -> Config:
    head = dict(type="Echo", whatever=7, widths=(64, 128, 256, 512))
    model = dict(type="SingleStageDetector", backbone=dict(type="ResNet", depth=18, **backbone))
    model["data_preprocessor"] = dict(type="DetDataPreprocessor", pad_size_divisor=1)
    return Config(dict(default_scope="mmdet", model=dict(model, bbox_head=head)))


def test_a_custom_head_is_left_alone_and_gets_the_maps_it_was_written_for(run: Path) -> None:
    cfg = own_head()
    before = cfg.model.bbox_head.to_dict()
    plug(cfg, run)
    assert cfg.model.bbox_head.to_dict() == before
    assert cfg.model.data_preprocessor.pad_size_divisor == 16
    with DefaultScope.overwrite_default_scope("mmdet"):
        backbone, neck = MODELS.build(cfg.model.backbone), MODELS.build(cfg.model.neck)
    maps = neck(backbone(torch.zeros(1, 3, 64, 96)))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 16, 24),
        (128, 8, 12),
        (256, 4, 6),
        (512, 2, 3),
    ]


def test_only_what_has_to_change_changes(run: Path) -> None:
    name = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    stock, cfg = read(name), read(name)
    changes = explain(cfg, run)
    assert {c.path for c in changes} == {
        "model.backbone",
        "model.neck.in_channels",
        "model.neck[0]",
        "model.data_preprocessor.mean",
        "model.data_preprocessor.std",
        "optim_wrapper.optimizer",  # a line that SGD stays
    }
    assert all(c.reason for c in changes)
    for part in ("rpn_head", "roi_head", "train_cfg", "test_cfg"):
        assert cfg.model[part] == stock.model[part]
    assert {k: v for k, v in cfg.model.neck[1].items() if k != "in_channels"} == {
        k: v for k, v in stock.model.neck.items() if k != "in_channels"
    }
    for key in stock:
        if key != "model":
            assert cfg[key] == stock[key], key


def test_what_belonged_to_the_old_backbone_goes_with_it(run: Path) -> None:
    cfg = own_head(init_cfg=dict(type="Pretrained", checkpoint="https://nowhere/x.pth"))
    cfg.model.pretrained = "torchvision://resnet18"
    cfg.model.init_cfg = dict(type="Pretrained", checkpoint="detector.pth")
    cfg.load_from = "https://nowhere/detector.pth"
    cfg.custom_imports = dict(imports=["mmpretrain.models"], allow_failed_imports=False)
    cfg.optim_wrapper = dict(
        constructor="LearningRateDecayOptimizerConstructor",
        paramwise_cfg=dict(decay_rate=0.7, decay_type="layer_wise", num_layers=6, keep=1),
    )
    plug(cfg, run)
    assert "nowhere" not in cfg.pretty_text and "detector.pth" not in cfg.pretty_text
    assert "pretrained" not in cfg.model and cfg.custom_imports.imports == []
    assert cfg.optim_wrapper.constructor == "LayerDecayConstructor"
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay=0.7, keep=1)


@pytest.mark.parametrize("key", ["decay_rate", "layer_decay_rate"])
def test_the_layer_decay_of_a_recipe_keeps_its_rate(run: Path, key: str) -> None:
    cfg = own_head()
    cfg.optim_wrapper = dict(
        constructor="LayerDecayOptimizerConstructor", paramwise_cfg={"num_layers": 12, key: 0.65}
    )
    plug(cfg, run)
    assert cfg.optim_wrapper.paramwise_cfg == dict(layer_decay=0.65)


def test_a_config_without_statistics_gets_the_runs(run: Path) -> None:
    cfg = own_head()
    del cfg.model["data_preprocessor"]
    plug(cfg, run)
    pixels = cfg.model.data_preprocessor
    assert pixels.type == "DetDataPreprocessor" and pixels.pad_size_divisor == 16
    assert pixels.std == pytest.approx([31.875, 63.75, 127.5]) and pixels.bgr_to_rgb


def test_images_that_are_no_photographs_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match=r"\(ResNet\) reads images of 4 channels, the SparcViT of"):
        plug(own_head(in_channels=4), run)


def test_maps_of_a_plain_transformer_are_taken_at_the_same_parts_of_the_depth(run: Path) -> None:
    cfg = plug("mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py", run)
    assert cfg.model.backbone.out_indices == [1, 1, 2, 3]  # thirds, half and all of four blocks
    assert cfg.model.neck[0].each and cfg.model.neck[0].out_channels == [768] * 4
    assert cfg.model.neck[1].embed_dim == 768


def test_a_plugged_config_saved_and_read_again_gives_the_same_model(
    run: Path, tmp_path: Path
) -> None:
    cfg = plug("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py", run, layer_decay=0.7)
    cfg.dump(tmp_path / "plugged.py")
    again = Config.fromfile(tmp_path / "plugged.py")
    assert again.to_dict() == cfg.to_dict()
    with DefaultScope.overwrite_default_scope("mmdet"):
        first, second = (MODELS.build(c.model) for c in (cfg, again))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (first, second)]
    assert shapes[0] == shapes[1]
    second.load_state_dict(first.state_dict())


def test_layer_decay_must_be_a_rate_and_have_an_optimizer(run: Path) -> None:
    for rate in (0.0, 1.2):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            plug(own_head(), run, layer_decay=rate)
    with pytest.raises(ValueError, match="no optim_wrapper"):
        plug(own_head(), run, layer_decay=0.7)
