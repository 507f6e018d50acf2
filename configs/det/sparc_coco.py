"""COCO instances, ViTDet-style Mask R-CNN, 100 epochs of large-scale jitter.

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_coco.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours): ViTDet's ViT-B from MAE reaches 51.6 box AP and 45.9 mask AP (detectron2,
projects/ViTDet).
"""

_base_ = "../_base_/mask_rcnn_vit.py"

annotations = "data/coco/annotations/instances_val2017.json"
val_evaluator = dict(
    _delete_=True,
    type="sparc.DetectionMetric",
    ann_file=annotations,
    iou_types=("bbox", "segm"),
    style="coco",
)
test_evaluator = val_evaluator
