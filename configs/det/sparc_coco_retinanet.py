"""COCO boxes, RetinaNet on a ViT-B/16, mmdet's 12 epochs at 1333 x 800: the light one.

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_coco_retinanet.py --backbone RUN \\
        --launcher pytorch --amp

No public number for a plain ViT under this recipe is known to us; we have not run it to its end.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]

custom_imports = dict(imports=["transfer"])
task = "detection"
model = dict(
    backbone=dict(
        _delete_=True,
        type="sparc.SparcViT",
        vision=dict(arch="vit_base_patch16_224", width=768),
        drop_path_rate=0.1,
    ),
    neck=dict(
        _delete_=True, type="sparc.SimplePyramid", in_channels=768, strides=(8, 16, 32, 64, 128)
    ),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=0.1),
    constructor="LayerDecayConstructor",
    paramwise_cfg=dict(layer_decay=0.7),
    clip_grad=dict(max_norm=1.0),
)
val_evaluator = dict(
    _delete_=True,
    type="sparc.DetectionMetric",
    ann_file="data/coco/annotations/instances_val2017.json",
)
test_evaluator = val_evaluator
