"""COCO instances, ViTDet's Cascade Mask R-CNN on a ViT-B/16.

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_coco_cascade.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours): ViTDet's ViT-B from MAE reaches 54.0 box AP and 46.7 mask AP (detectron2,
projects/ViTDet, README; with relative positions, which this recipe lacks; one mask head). We have
not run this config to its end.
"""

_base_ = "../_base_/cascade_mask_rcnn_vit.py"
