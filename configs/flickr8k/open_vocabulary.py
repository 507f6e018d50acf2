"""Open-vocabulary detection on Flickr8k: the 762 nouns of its captions' phrases, the 437 rare ones
held out; for two CPU cores.

python tools/train.py configs/flickr8k/open_vocabulary.py --backbone work_dirs/flickr8k/sparc

The labels are derived by a rule, noisy and far from exhaustive: compare runs, not papers.
"""

_base_ = "../_base_/open_vocabulary_small.py"

model = dict(text=dict(vocab_size=6000, layers=4, max_tokens=40), width=256)
photos = dict(data_root="data/flickr8k/", data_prefix=dict(img="images/"))
train_dataloader = dict(
    dataset=dict(
        dataset=dict(ann_file="boxes_nouns_lvis_train.json", leave_out_frequency=("r",), **photos)
    )
)
val_dataloader = dict(dataset=dict(ann_file="boxes_nouns_lvis_val.json", **photos))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="data/flickr8k/boxes_nouns_lvis_val.json")
test_evaluator = val_evaluator
# 5,996 / 16 = 375 steps: one canvas begun with each photograph (1.9 photographs on it on average)
train_cfg = dict(max_iters=375, val_interval=375)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=375),
]
