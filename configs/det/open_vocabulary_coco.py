"""Open-vocabulary detection trained and tested on COCO's 80 classes.

    torchrun --nproc-per-node 8 tools/train.py configs/det/open_vocabulary_coco.py --backbone RUN \\
        --launcher pytorch --amp

A checkpoint of another config is tested on COCO by `tools/test.py` with this one. Yardstick (not
ours): the paper's detector, trained on Objects365 and Visual Genome, reports COCO AP 39.4 (CLIP:
38.5). We have not run this config to its end.
"""

_base_ = "../_base_/open_vocabulary.py"

root = "data/coco/"
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            data_root=root,
            ann_file="annotations/instances_train2017.json",
            data_prefix=dict(img="train2017/"),
        )
    )
)
val_dataloader = dict(
    dataset=dict(
        data_root=root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + "annotations/instances_val2017.json")
test_evaluator = val_evaluator
