"""UPerNet on CamVid's 11 classes, for two CPU cores.

python tools/train.py configs/camvid/seg.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = ["../_base_/upernet_vit.py", "../_base_/camvid.py"]

crop = (224, 224)
model = dict(data_preprocessor=dict(size=crop), decode_head=dict(num_classes=11))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=(299, 224), ratio_range=(1.0, 1.5), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
dataset = dict(type="BaseSegDataset", data_root="data/camvid", metainfo={{_base_.camvid}})
train_dataloader = dict(
    dataset=dict(
        pipeline=train_pipeline,
        data_prefix=dict(img_path="images/train", seg_map_path="annotations/train"),
        **dataset,
    )
)
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        pipeline=test_pipeline,
        data_prefix=dict(img_path="images/val", seg_map_path="annotations/val"),
        **dataset,
    ),
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=200, val_interval=200)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=200),
]
