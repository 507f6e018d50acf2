"""Open-vocabulary detection trained on LVIS v1 without its 337 rare categories, tested on all 1,203
(AP and Fixed AP; the rare ones, APr, were never shown).

    torchrun --nproc-per-node 8 tools/train.py configs/det/open_vocabulary_lvis.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours): OWL-ViT's released CLIP B/16 reaches 20.8 AP, 17.1 APr (scenic,
projects/owl_vit). We have not run this config to its end.
"""

_base_ = "../_base_/open_vocabulary.py"

root = "data/lvis_v1/"
# Fixed AP keeps what 300 per image would drop
model = dict(test_cfg=dict(max_per_img=1_000))
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            data_root=root,
            ann_file="annotations/lvis_v1_train.json",
            data_prefix=dict(img=""),
            leave_out_frequency=("r",),
        )
    )
)
val_dataloader = dict(
    dataset=dict(data_root=root, ann_file="annotations/lvis_v1_val.json", data_prefix=dict(img=""))
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="sparc.FixedDetectionMetric",
    ann_file=root + "annotations/lvis_v1_val.json",
    style="lvis",
)
test_evaluator = val_evaluator
