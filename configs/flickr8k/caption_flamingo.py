"""Flamingo on Flickr8k with a frozen backbone and a frozen language model that has read captions,
for two CPU cores.

python tools/pretrain_lm.py data/flickr30k_text/captions.tsv.gz --out work_dirs/lm \\
    --exclude data/flickr8k/captions_val.json --max-minutes 10 --amp
python tools/train.py configs/flickr8k/caption_flamingo.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = "../_base_/caption_flamingo.py"

train_set = dict(
    data_root="data/flickr8k/", ann_file="captions_train.json", data_prefix=dict(img="images")
)
train_dataloader = dict(dataset=train_set)
val_dataloader = dict(
    dataset=dict(
        data_root="data/flickr8k/",
        ann_file="captions_val.json",
        data_prefix=dict(img="images"),
        source=train_set,
    )
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=800, val_interval=800)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=100, end=800),
]
