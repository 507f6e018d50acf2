"""COCO boxes, DINO-DETR with four pyramid levels of a ViT-B/16, 12 epochs.

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_coco_dino.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours, another recipe): detrex's DINO on ViTDet's ViT-B from MAE reaches 50.2 box AP
in 12 epochs and 55.0 in 50 (detrex, projects/dino, README), where the whole backbone learns at a
tenth of the rate of the rest. Here rates fall from block to block and the last block learns at 0.7
of it, seven times faster than there; the rest is mmdet's DINO. We have not run it to its end.
"""

_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"

custom_imports = dict(imports=["transfer"])
task = "detection"
model = dict(
    backbone=dict(
        _delete_=True,
        type="sparc.SparcViT",
        vision=dict(arch="vit_base_patch16_224", width=768),
        drop_path_rate=0.1,
        window=14,
    ),
    neck=dict(_delete_=True, type="sparc.SimplePyramid", in_channels=768, strides=(8, 16, 32, 64)),
)
optim_wrapper = dict(
    constructor="LayerDecayConstructor", paramwise_cfg=dict(_delete_=True, layer_decay=0.7)
)
param_scheduler = [  # without a warm-up it is not stable, says detrex
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[11], gamma=0.1),
]
val_evaluator = dict(
    _delete_=True,
    type="sparc.DetectionMetric",
    ann_file="data/coco/annotations/instances_val2017.json",
)
test_evaluator = val_evaluator
