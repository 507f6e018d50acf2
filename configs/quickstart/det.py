"""FCOS on the built-in scenes, 12 categories: two runs side by side take 3 to 6 minutes on
two CPU cores.

python tools/train.py configs/quickstart/det.py --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = ["../_base_/fcos_vit.py", "../_base_/scenes.py"]

model = dict(
    backbone=dict(vision=dict(width=96, overrides=dict(depth=4, embed_dim=96, num_heads=3))),
    neck=dict(in_channels=96),
    bbox_head=dict(num_classes=12),
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True),
    dataset=dict(
        data_root="data/quickstart/",
        metainfo=dict(classes={{_base_.easy_things}}),
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="images/train/"),
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root="data/quickstart/",
        metainfo=dict(classes={{_base_.easy_things}}),
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="images/val/"),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/quickstart/annotations/instances_val.json")
test_evaluator = val_evaluator
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=280, val_interval=280)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=280),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1000))
log_processor = dict(by_epoch=False)
