"""Mask R-CNN, ViTDet style, on a few hundred COCO photographs, for two CPU cores.

    python tools/train.py configs/coco_subset/mask_rcnn.py --backbone work_dirs/flickr8k/sparc --amp

A check of the whole path on real masks, not a benchmark.
"""

_base_ = "../_base_/mask_rcnn_vit_small.py"

root = "data/coco_subset/"
train_dataloader = dict(
    dataset=dict(
        data_root=root,
        ann_file="instances_train2017.json",
        data_prefix=dict(img="images/train2017/"),
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
# 864 steps of 4. ViTDet's rate and its decay of 0.7 a layer are for a backbone that knows much
# already and for 180,000 steps.
train_cfg = dict(max_epochs=16, val_interval=16)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=864),
]
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(layer_decay=0.9),
    clip_grad=dict(max_norm=10.0),
)
