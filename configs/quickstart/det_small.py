"""FCOS as in det.py on scenes of 64 px, for towers with patches of 8 px (study/scenes_easy.py and
scenes_boxes.py): the same number of patches.

python tools/data.py scenes --out data/scenes_easy --level easy --train 4000 --val 400 --size 64
python tools/train.py configs/quickstart/det_small.py --backbone RUN --amp
"""

_base_ = "./det.py"

model = dict(
    neck=dict(strides=(4, 8, 16)),
    bbox_head=dict(strides=[4, 8, 16], regress_ranges=((-1, 24), (24, 48), (48, 1e8))),
)
resize = dict(type="Resize", scale=(96, 96), keep_ratio=True)
train_dataloader = dict(
    dataset=dict(
        data_root="data/scenes_easy/",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            resize,
            dict(type="RandomFlip", prob=0.5),
            dict(type="PackDetInputs"),
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root="data/scenes_easy/",
        pipeline=[
            dict(type="LoadImageFromFile"),
            resize,
            dict(type="LoadAnnotations", with_bbox=True),
            dict(
                type="PackDetInputs",
                meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
            ),
        ],
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/scenes_easy/annotations/instances_val.json")
test_evaluator = val_evaluator
del resize
