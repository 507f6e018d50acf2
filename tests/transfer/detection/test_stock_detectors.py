"""Stock mmdet configs, made small: on the stand-in's kernels each takes a step and predicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.config import Config

from transfer import mm
from transfer.mm import ops

HEIGHT, WIDTH = 96, 128

# A leaf each, in the dialect in which users write theirs: ResNet-18, thin, not pre-trained.
RESNET = "backbone=dict(depth=18, frozen_stages=-1, init_cfg=None)"
PYRAMID = "neck=dict(in_channels=[64, 128, 256, 512], out_channels=64)"
DETR_NECK = "neck=dict(in_channels=[128, 256, 512])"
THIN_FFN = "layer_cfg=dict(ffn_cfg=dict(feedforward_channels=64))"
CONFIGS = {
    "mask_rcnn/mask-rcnn_r50_fpn_1x_coco": f"""
model = dict({RESNET}, {PYRAMID},
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        mask_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=64, num_classes=5),
        mask_head=dict(in_channels=64, conv_out_channels=32, num_convs=1, num_classes=5)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=32)), rpn_proposal=dict(max_per_img=50)),
    test_cfg=dict(rpn=dict(max_per_img=50), rcnn=dict(score_thr=0.0, max_per_img=10)))
""",
    "retinanet/retinanet_r50_fpn_1x_coco": f"""
model = dict({RESNET}, {PYRAMID},
    bbox_head=dict(in_channels=64, feat_channels=32, stacked_convs=1, num_classes=5),
    test_cfg=dict(score_thr=0.0, max_per_img=10))
""",
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco": f"""
model = dict({RESNET}, {PYRAMID},
    bbox_head=dict(in_channels=64, feat_channels=32, stacked_convs=1, num_classes=5),
    test_cfg=dict(score_thr=0.0, max_per_img=10))
""",
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco": f"""
model = dict({RESNET}, {DETR_NECK}, num_queries=20,
    encoder=dict(num_layers=1, {THIN_FFN}),
    decoder=dict(num_layers=2, {THIN_FFN}),
    bbox_head=dict(num_classes=5), test_cfg=dict(max_per_img=10))
""",
    "dino/dino-4scale_r50_8xb2-12e_coco": f"""
model = dict({RESNET}, {DETR_NECK}, num_queries=20,
    encoder=dict(num_layers=1, {THIN_FFN}),
    decoder=dict(num_layers=2, {THIN_FFN}),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=10)),
    bbox_head=dict(num_classes=5), test_cfg=dict(max_per_img=10))
""",
}


@pytest.fixture(scope="module", autouse=True)
def mmdet() -> None:
    """Imports mmdet once, on the stand-in."""
    with ops.using("standin"):
        mm.register("mmdet")
        yield


def build(name: str) -> torch.nn.Module:
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    config = Config.fromstring(f"_base_ = 'mmdet::{name}.py'\n{CONFIGS[name]}", ".py")
    model = MODELS.build(config.model)
    model.init_weights()
    return model


def batch() -> dict[str, list[Any]]:
    """Two noise images with two objects each: what a dataloader gives ``data_preprocessor``."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[8.0, 8.0, 72.0, 64.0], [40.0, 20.0, 120.0, 90.0]])
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    samples = []
    for index in range(2):
        shape = {"img_shape": (HEIGHT, WIDTH), "ori_shape": (HEIGHT, WIDTH), "pad_shape": (96, 128)}
        sample = DetDataSample(metainfo={**shape, "scale_factor": (1.0, 1.0), "img_id": index})
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.tensor([index, 4]),
            masks=BitmapMasks(masks.numpy(), HEIGHT, WIDTH),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    images = torch.randint(0, 256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8, generator=generator)
    return {"inputs": list(images), "data_samples": samples}


def step(model: torch.nn.Module) -> dict[str, float]:
    """One loss step; returns the parsed losses after checking that they and the gradients count."""
    model.train()
    losses = model(**model.data_preprocessor(batch(), training=True), mode="loss")
    total, parsed = model.parse_losses(losses)
    assert all(torch.isfinite(torch.as_tensor(value)) for value in parsed.values()), parsed
    total.backward()
    for part, parameters in (
        ("backbone", model.backbone.layer3.parameters()),
        ("whole model", model.parameters()),
    ):
        gradients = [p.grad for p in parameters if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients), part
        assert sum(gradient.abs().sum() for gradient in gradients) > 0, part
    return {name: float(value.detach()) for name, value in parsed.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stock_detector_takes_a_loss_step_and_predicts(name: str) -> None:
    model = build(name)
    losses = step(model)
    assert losses["loss"] > 0 and len(losses) >= 3
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch()), mode="predict")
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert 0 < len(found) <= 10
        assert found.bboxes.shape == (len(found), 4) and found.bboxes.isfinite().all()
        assert found.bboxes.min() >= 0 and found.bboxes[:, 2].max() <= WIDTH
        assert ((found.labels >= 0) & (found.labels < 5)).all()
        assert (found.scores.diff() <= 0).all()
        if "mask" in name:
            assert found.masks.shape == (len(found), HEIGHT, WIDTH)


@pytest.mark.parametrize("name", CONFIGS)
def test_images_of_crowds_alone_and_without_any_object_take_a_finite_step(name: str) -> None:
    model, data = build(name).train(), batch()
    for sample, boxes in zip(data["data_samples"], (0, 1), strict=True):
        crowd = sample.gt_instances[:boxes]
        sample.ignored_instances = type(crowd)(bboxes=crowd.bboxes, labels=crowd.labels)
        sample.gt_instances = sample.gt_instances[:0]
    total, parsed = model.parse_losses(
        model(**model.data_preprocessor(data, training=True), mode="loss")
    )
    total.backward()
    assert all(torch.isfinite(torch.as_tensor(value)) for value in parsed.values()), parsed
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)  # background is learnt


def test_mask_rcnn_takes_a_loss_step_under_bfloat16_autocast() -> None:
    model = build("mask_rcnn/mask-rcnn_r50_fpn_1x_coco")
    with torch.autocast("cpu", torch.bfloat16):
        half = step(model)
    whole = step(build("mask_rcnn/mask-rcnn_r50_fpn_1x_coco"))
    assert half["loss_rpn_cls"] == pytest.approx(whole["loss_rpn_cls"], rel=0.02)


def test_a_detector_learns_the_two_images_it_is_shown() -> None:
    """Kernels whose gradients point elsewhere would pass a single step."""
    model = build("mask_rcnn/mask-rcnn_r50_fpn_1x_coco").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    totals = []
    for _ in range(12):
        torch.manual_seed(0)  # the same sampled regions each time
        losses = model(**model.data_preprocessor(batch(), training=True), mode="loss")
        total, parsed = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(parsed["loss"].detach()))
    assert totals[-1] < 0.7 * totals[0], totals
