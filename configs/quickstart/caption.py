"""Captioning the built-in scenes: two runs side by side take 2 to 4 minutes on two
CPU cores.

python tools/train.py configs/quickstart/caption.py --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = "../_base_/caption_vit.py"

model = dict(
    backbone=dict(vision=dict(width=96, overrides=dict(depth=4, embed_dim=96, num_heads=3))),
    # every patch is read: a mean over 2 x 2 hides what an object is (named right .68, not .77); a
    # language model of a fifth of the weights says these captions as well
    bridge=dict(grid=8),
    language_model=dict(n_layer=2, n_embd=128, n_head=4),
)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        data_root="data/quickstart/",
        ann_file="annotations/captions_train.json",
        data_prefix=dict(img="images/train"),
    ),
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
train_cfg = dict(max_iters=900, val_interval=900)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=900),
]
