"""Mask R-CNN on a ViT-Ti/16 at 224 px, small enough for two CPU cores."""

_base_ = ["./mask_rcnn_vit.py", "./vit_tiny.py"]

model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(vision={{_base_.vit_tiny}}, window=0),
    # ViTDet's 256 channels and 512 regions are a teraflop per step in its box head of four
    # convolutions alone; this one is that of mmdet's own Mask R-CNN
    neck=dict(in_channels=192, out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        mask_roi_extractor=dict(out_channels=64),
        bbox_head=dict(
            type="Shared2FCBBoxHead", in_channels=64, conv_out_channels=64, fc_out_channels=256
        ),
        mask_head=dict(in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)),
)
load = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
]
resize = dict(type="Resize", scale=(224, 224), keep_ratio=True)
meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
flip = dict(type="RandomFlip", prob=0.5)
train_pipeline = [*load, resize, flip, dict(type="PackDetInputs")]
test_pipeline = [load[0], resize, load[1], dict(type="PackDetInputs", meta_keys=meta)]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type="CocoDataset",
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
