"""UPerNet on the built-in scenes, 12 things and 8 backgrounds: two runs side by side take 4
to 7 minutes on two CPU cores.

python tools/train.py configs/quickstart/seg.py --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = ["../_base_/upernet_vit.py", "../_base_/scenes.py"]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(vision=dict(width=96, overrides=dict(depth=4, embed_dim=96, num_heads=3))),
    neck=dict(in_channels=96),
    decode_head=dict(num_classes=20),
)
metainfo = dict(classes={{_base_.easy_classes}}, palette={{_base_.easy_palette}})
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
dataset = dict(
    type="BaseSegDataset",
    data_root="data/quickstart/ade",
    metainfo=metainfo,
    reduce_zero_label=True,
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
# of 1e-3 and 3e-3 the better one for either start
optim_wrapper = dict(optimizer=dict(lr=3e-3))
train_cfg = dict(max_iters=900, val_interval=900)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=900),
]
