"""Statements about two of the built-in scenes, for a CPU; half of them are true, whatever they say.

python tools/train.py configs/vlp/scenes_nlvr.py --backbone RUN --amp
"""

_base_ = "./nlvr.py"

files = dict(data_root="data/quickstart/", size=128)
loading = dict(num_workers=0, batch_size=64)
train_dataloader = dict(
    **loading,
    dataset=dict(
        **files, ann_file="annotations/nlvr_train.jsonl", data_prefix=dict(img="images/train")
    ),
)
val_dataloader = dict(
    **loading,
    dataset=dict(
        **files, ann_file="annotations/nlvr_val.jsonl", data_prefix=dict(img="images/val")
    ),
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_iters=600, val_interval=600)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=60, end=600),
]
del files, loading
