"""UPerNet on CamVid's 11 classes, for two CPU cores.

python tools/train.py configs/camvid/seg.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = "../_base_/upernet_vit.py"

metainfo = dict(
    classes=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    palette=[
        [128, 128, 128],
        [128, 0, 0],
        [192, 192, 128],
        [128, 64, 128],
        [60, 40, 222],
        [128, 128, 0],
        [192, 128, 128],
        [64, 64, 128],
        [64, 0, 128],
        [64, 64, 0],
        [0, 128, 192],
    ],
)
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
dataset = dict(
    type="BaseSegDataset", data_root="data/camvid", metainfo=metainfo, reduce_zero_label=False
)
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
train_cfg = dict(max_iters=300, val_interval=300)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=300),
]
