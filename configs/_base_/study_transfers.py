"""What a study fine-tunes its run folders for: the quickstart's detector, segmentor and captioner,
the first two for fewer steps. Data: data/quickstart.
"""

_base_ = "./study_scenes.py"


study = dict(
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
