"""FCOS on a ViT-Ti/16 with three pyramid levels, small enough for two CPU cores; a delta on mmdet's
FCOS.
"""

_base_ = ["mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "./vit_tiny.py"]

custom_imports = dict(imports=["transfer"])
task = "detection"
image_scale = (192, 192)
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(_delete_=True, type="sparc.SparcViT", vision={{_base_.vit_tiny}}),
    neck=dict(
        _delete_=True,
        type="sparc.SimplePyramid",
        in_channels=192,
        out_channels=128,
        strides=(8, 16, 32),
    ),
    bbox_head=dict(
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        strides=[8, 16, 32],
        regress_ranges=((-1, 48), (48, 96), (96, 1e8)),
        center_sampling=True,
        norm_on_bbox=True,
        centerness_on_reg=True,
        loss_bbox=dict(type="GIoULoss", loss_weight=1.0),
    ),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=image_scale, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_scale, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(min_size=1)),
)
val_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="sparc.DetectionMetric", iou_types=("bbox",), style="coco")
test_evaluator = val_evaluator
optim_wrapper = dict(_delete_=True, **_base_.small_adamw)
default_hooks = dict(logger=dict(interval=20))
log_processor = dict(window_size=20)
