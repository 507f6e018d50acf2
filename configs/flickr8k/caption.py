"""Captioning Flickr8k on a frozen backbone, for two CPU cores.

python tools/train.py configs/flickr8k/caption.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = "../_base_/caption_vit.py"

train_dataloader = dict(
    dataset=dict(
        data_root="data/flickr8k/", ann_file="captions_train.json", data_prefix=dict(img="images")
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root="data/flickr8k/", ann_file="captions_val.json", data_prefix=dict(img="images")
    )
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=500, val_interval=500)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=500),
]
