"""Captioning the built-in scenes: two runs side by side take 2 to 4 minutes on two
CPU cores.

python tools/train.py configs/quickstart/caption.py --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = "../_base_/caption_vit.py"

model = dict(
    backbone=dict(vision=dict(width=96, overrides=dict(depth=4, embed_dim=96, num_heads=3)))
)
train_dataloader = dict(
    dataset=dict(
        data_root="data/quickstart/",
        ann_file="annotations/captions_train.json",
        data_prefix=dict(img="images/train"),
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root="data/quickstart/",
        ann_file="annotations/captions_val.json",
        data_prefix=dict(img="images/val"),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(resamples=1000, scenes=True)
test_evaluator = val_evaluator
train_cfg = dict(max_iters=600, val_interval=600)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=600),
]
