"""What the quickstart's backbones are worth downstream: a detector, a segmentor and a captioner
from SPARC with the caption contrast, from CLIP and from random weights, 5 seeds; 15 to 25 minutes
of one CPU core a cell.

python tools/data.py scenes --out data/quickstart --level easy --train 4000 --val 400 --size 128
python tools/study.py configs/study/transfer_easy.py
"""

_base_ = ["../quickstart/sparc_cc.py", "../_base_/study_scenes.py"]

default_hooks = dict(checkpoint=dict(interval=200))
sparc_cc = {{_base_.model.objective}}
arms = dict(
    _delete_=True,
    sparc_cc=dict(objective=sparc_cc, label="SPARC, caption contrast"),
    clip=dict(objective=dict(type="Clip"), label="CLIP"),
    random=dict(objective=dict(type="Clip"), trained=False, group="control", label="not trained"),
)
study = dict(
    root="data/quickstart",
    seeds=(0, 1, 2, 3, 4),
    arms=arms,
    sweeps=[],
    # named before any cell was trained
    primary=(
        "detection bbox_AP",
        "segmentation mIoU",
        "caption CIDEr",
        "caption scene-true",
        "top1",
        "word_pointing",
    ),
    transfers=dict(
        detection=dict(
            config="sparc_pretrain::quickstart/det.py",
            options={
                "train_cfg.max_iters": 280,
                "train_cfg.val_interval": 280,
                "param_scheduler.1.end": 280,
            },
            metrics=("coco/bbox_AP", "coco/bbox_AP50", "coco/bbox_AP75"),
        ),
        segmentation=dict(
            config="sparc_pretrain::quickstart/seg.py",
            options={
                "train_cfg.max_iters": 500,
                "train_cfg.val_interval": 500,
                "param_scheduler.1.end": 500,
            },
            metrics=("mIoU", "aAcc"),
        ),
        caption=dict(
            config="sparc_pretrain::quickstart/caption_cached.py",
            metrics=(
                "caption/CIDEr",
                "caption/scene-true",
                "caption/scene-objects",
                "caption/scene-captions",
            ),
        ),
    ),
)
del sparc_cc, arms
