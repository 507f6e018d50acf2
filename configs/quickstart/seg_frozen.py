"""UPerNet as in seg.py on a backbone that stays as it is: 500 steps at the rate of a head that
starts from nothing change a backbone more than they teach it.

python tools/train.py configs/quickstart/seg_frozen.py --backbone work_dirs/quickstart/sparc --amp
"""

_base_ = "./seg.py"

model = dict(backbone=dict(frozen=True))
train_cfg = dict(max_iters=500, val_interval=500)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=500),
]
