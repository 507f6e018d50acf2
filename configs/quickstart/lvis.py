"""FCOS on the built-in scenes with LVIS's rules: repeat-factor sampling, 300 detections, AP_r/c/f.

python tools/train.py configs/quickstart/lvis.py --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = "./det.py"

model = dict(bbox_head=dict(num_classes=36), test_cfg=dict(score_thr=1e-4, max_per_img=300))
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="sparc.RepeatFactorDataset",
        oversample_thr=1e-1,
        dataset=dict(
            type="LVISV1Dataset",
            data_root="data/scenes/",
            metainfo=dict(classes={{_base_.scene_things}}),
            ann_file="annotations/lvis_v1_train.json",
            data_prefix=dict(img="images/"),
            pipeline={{_base_.train_pipeline}},
        ),
    ),
)
val_dataloader = dict(
    dataset=dict(
        type="LVISV1Dataset",
        data_root="data/scenes/",
        metainfo=dict(classes={{_base_.scene_things}}),
        ann_file="annotations/lvis_v1_val.json",
        data_prefix=dict(img="images/"),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/scenes/annotations/lvis_v1_val.json", style="lvis")
test_evaluator = val_evaluator
