"""FCOS on Flickr8k's boxes in 8 coarse classes, for two CPU cores.

python tools/train.py configs/flickr8k/det.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = "../_base_/fcos_vit.py"

classes = (
    "people",
    "clothing",
    "bodyparts",
    "animals",
    "vehicles",
    "instruments",
    "scene",
    "other",
)
model = dict(bbox_head=dict(num_classes=8))
train_dataloader = dict(
    dataset=dict(
        data_root="data/flickr8k/",
        metainfo=dict(classes=classes),
        ann_file="boxes_coarse8_train.json",
        data_prefix=dict(img="images/"),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root="data/flickr8k/",
        metainfo=dict(classes=classes),
        ann_file="boxes_coarse8_val.json",
        data_prefix=dict(img="images/"),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/flickr8k/boxes_coarse8_val.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=2)
# 5,996 images / 16 = 375 steps per epoch
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=750),
]
