"""COCO Captions by a run's own fusion encoder and head of words (X-VLM, UNITER, Oscar,
Kaleido-BERT), fine-tuned whole, 5 epochs.

    torchrun --nproc-per-node 8 tools/train.py configs/caption/fusion_coco.py --backbone RUN \\
        --launcher pytorch --amp

Yardsticks: B@4 / CIDEr 39.8 / 133.1 (X-VLM 4M), 36.5 / 123.7 (Oscar base). Rates and length are
X-VLM's order of size; we have not run it on COCO.
"""

_base_ = "../_base_/pairs.py"

task = "captioning"
model = dict(
    type="sparc.Captioner",
    run=None,
    bridge=dict(kind="fusion"),
    prompt="a picture of",
    generation=dict(num_beams=3),
)
coco = dict(type="sparc.CaptionDataset", data_root="data/coco/")
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        **coco, ann_file="annotations/captions_train2017.json", data_prefix=dict(img="train2017")
    ),
)
val_dataloader = dict(
    dataset=dict(
        **coco, ann_file="annotations/captions_val2017.json", data_prefix=dict(img="val2017")
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(type="sparc.CaptionMetric")
test_evaluator = val_evaluator
# 591,753 captions / (8 x 32) = 2,312 steps per epoch; 5 epochs
train_cfg = dict(type="IterBasedTrainLoop", max_iters=11560, val_interval=2312)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=1156),
    dict(type="LinearLR", start_factor=1, end_factor=0, by_epoch=False, begin=1156, end=11560),
]
del coco
