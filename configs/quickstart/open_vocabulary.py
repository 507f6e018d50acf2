"""Open-vocabulary detection of the built-in scenes, rare categories held out: about 5 minutes on
two CPU cores.

python tools/train.py configs/quickstart/open_vocabulary.py --backbone work_dirs/quickstart/sparc
"""

_base_ = ["../_base_/open_vocabulary_small.py", "../_base_/scenes.py"]

model = dict(
    backbone=dict(vision=dict(width=96, overrides=dict(depth=4, embed_dim=96, num_heads=3)))
)
metainfo = dict(classes={{_base_.scene_things}})
scenes = dict(metainfo=metainfo, data_root="data/scenes/", data_prefix=dict(img="images/"))
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            ann_file="annotations/lvis_v1_train.json", leave_out_frequency=("r",), **scenes
        )
    )
)
val_dataloader = dict(dataset=dict(ann_file="annotations/lvis_v1_val.json", **scenes))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/scenes/annotations/lvis_v1_val.json")
test_evaluator = val_evaluator
