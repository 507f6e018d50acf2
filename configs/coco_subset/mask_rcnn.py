"""Mask R-CNN, ViTDet style, on a few hundred COCO photographs, for two CPU cores.

    python tools/train.py configs/coco_subset/mask_rcnn.py --backbone work_dirs/flickr8k/sparc --amp

A check of the whole path on real masks, not a benchmark: about an hour of one core.
"""

_base_ = "../_base_/mask_rcnn_vit_small.py"

root = "data/coco_subset/"
train_pipeline = [step for step in _base_.train_pipeline if step["type"] != "RandomFlip"]
train_dataloader = dict(
    dataset=dict(
        data_root=root,
        ann_file="instances_train2017.json",
        data_prefix=dict(img="images/train2017/"),
        pipeline=train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=root,
        ann_file="instances_val2017.json",
        data_prefix=dict(img="images/val2017/"),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + "instances_val2017.json")
test_evaluator = val_evaluator
# 6,480 steps of 4: one rate for all layers (ViTDet's decay of 0.7 a layer is
# for a backbone that has learnt much), and no flips.
train_cfg = dict(max_epochs=120, val_interval=120)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=200, end=6480),
]
optim_wrapper = dict(
    optimizer=dict(lr=3e-4, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay=1.0),
    clip_grad=dict(max_norm=5.0),
)
