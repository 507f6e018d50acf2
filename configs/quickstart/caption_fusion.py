"""Captioning the built-in scenes by a run's own fusion encoder and head of words, for a CPU.

python tools/train.py configs/quickstart/caption_fusion.py \\
    --backbone work_dirs/quickstart/xvlm --amp
"""

_base_ = "../caption/fusion_coco.py"

files = dict(data_root="data/quickstart/", size=128)
loading = dict(num_workers=0, batch_size=64)
model = dict(prompt="", generation=dict(num_beams=1))
train_dataloader = dict(
    **loading,
    dataset=dict(
        **files, ann_file="annotations/captions_train.json", data_prefix=dict(img="images/train")
    ),
)
val_dataloader = dict(
    **loading,
    dataset=dict(
        **files, ann_file="annotations/captions_val.json", data_prefix=dict(img="images/val")
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(resamples=1000, scenes=True)
test_evaluator = val_evaluator
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_iters=600, val_interval=600)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=60, end=600),
]
del files, loading
