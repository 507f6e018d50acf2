"""UPerNet on 133 classes, things and stuff, of a hundred COCO photographs, for two CPU cores: a
check of the whole path on real maps, not a benchmark.

python tools/train.py configs/coco_subset/seg.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = ["../camvid/seg.py", "../_base_/coco_panoptic.py"]

custom_imports = dict(imports=["transfer", "transfer.segmentation.mapped_images"])
maps = dict(
    type="sparc.MappedImages",  # 100 of 343 photographs have a map
    data_root="data/coco_subset",
    metainfo=dict(_delete_=True, classes={{_base_.panoptic_classes}}),
)
model = dict(decode_head=dict(num_classes=133))
# near the scale of the training, with half the pixels of a photograph
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(448, 336), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,  # 16 passes over 100 photographs in 200 steps; most of a step is 133 classes
    dataset=dict(
        data_prefix=dict(img_path="images/train2017", seg_map_path="semseg_train2017"), **maps
    ),
)
val_dataloader = dict(
    batch_size=1,  # photographs of different sizes
    dataset=dict(
        pipeline=test_pipeline,
        data_prefix=dict(img_path="images/val2017", seg_map_path="semseg_val2017"),
        **maps,
    ),
)
test_dataloader = val_dataloader
