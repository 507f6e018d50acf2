"""VQA v2 by a run with a fusion encoder (X-VLM, UNITER, Oscar, Kaleido-BERT): 3,129 answers.

    torchrun --nproc-per-node 8 tools/train.py configs/vlp/vqa.py --backbone RUN \\
        --launcher pytorch --amp

Rates and length are UNITER's order of size; we have not run it on VQA v2.
"""

_base_ = "../_base_/pairs.py"

task = "vqa"
train_answers = "v2_mscoco_train2014_annotations.json"
# answers of at least 9 questions (arXiv 1707.07998)
model = dict(type="sparc.VqaClassifier", run=None, answers=f"data/vqa/{train_answers}", least=9)
vqa = dict(type="sparc.VQADataset", data_root="data/vqa/", template="{}")
train_dataloader = dict(
    dataset=dict(
        **vqa,
        ann_file="v2_OpenEnded_mscoco_train2014_questions.json",
        answers=train_answers,
        data_prefix=dict(img="train2014"),
        image_name="COCO_train2014_{:012d}.jpg",
    )
)
val_dataloader = dict(
    dataset=dict(
        **vqa,
        ann_file="v2_OpenEnded_mscoco_val2014_questions.json",
        answers="v2_mscoco_val2014_annotations.json",
        data_prefix=dict(img="val2014"),
        image_name="COCO_val2014_{:012d}.jpg",
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(type="sparc.VQAMetric")
test_evaluator = val_evaluator
# 443,757 questions / (8 x 64) = 867 steps per epoch; 10 epochs
train_cfg = dict(type="IterBasedTrainLoop", max_iters=8670, val_interval=867)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=867),
    dict(type="LinearLR", start_factor=1, end_factor=0, by_epoch=False, begin=867, end=8670),
]
del train_answers, vqa
