"""NLVR2 by a run with a fusion encoder: is a statement true of two images?

    torchrun --nproc-per-node 8 tools/train.py configs/vlp/nlvr.py --backbone RUN \\
        --launcher pytorch --amp

Rates and length are UNITER's order of size; we have not run it on NLVR2.
"""

_base_ = "../_base_/pairs.py"

task = "nlvr"
model = dict(type="sparc.NlvrClassifier", run=None)
nlvr = dict(type="sparc.NlvrDataset", data_root="data/nlvr2/")
train_dataloader = dict(
    batch_size=16,
    dataset=dict(**nlvr, ann_file="train.json", data_prefix=dict(img="train")),
)
val_dataloader = dict(dataset=dict(**nlvr, ann_file="dev.json", data_prefix=dict(img="dev")))
test_dataloader = val_dataloader
val_evaluator = dict(type="sparc.NlvrMetric")
test_evaluator = val_evaluator
# 86,373 statements / (8 x 16) = 675 steps per epoch; 12 epochs
train_cfg = dict(type="IterBasedTrainLoop", max_iters=8100, val_interval=675)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=810),
    dict(type="LinearLR", start_factor=1, end_factor=0, by_epoch=False, begin=810, end=8100),
]
del nlvr
