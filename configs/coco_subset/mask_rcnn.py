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
train_cfg = dict(max_epochs=8, val_interval=8)
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=True, T_max=8)]
