"""Flamingo on the built-in scenes, for two CPU cores.

python tools/pretrain_lm.py data/quickstart/annotations/captions_train.json \\
    --out work_dirs/lm_scenes --width 128 --layers 4 --vocab 500 --block 64 --steps 400
python tools/train.py configs/quickstart/caption_flamingo.py \\
    --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = "../_base_/caption_flamingo.py"

model = dict(
    backbone=dict(vision=dict(width=96, overrides=dict(depth=4, embed_dim=96, num_heads=3))),
    language_model=dict(pretrained="work_dirs/lm_scenes"),
)
train_set = dict(
    data_root="data/quickstart/",
    ann_file="annotations/captions_train.json",
    data_prefix=dict(img="images/train"),
)
train_dataloader = dict(dataset=train_set)
val_dataloader = dict(
    dataset=dict(
        data_root="data/quickstart/",
        ann_file="annotations/captions_val.json",
        data_prefix=dict(img="images/val"),
        source=train_set,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    chair=dict(instances="data/quickstart/annotations/instances_val.json"),
    scenes=True,
)
test_evaluator = val_evaluator
train_cfg = dict(max_iters=400, val_interval=400)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=400),
]
