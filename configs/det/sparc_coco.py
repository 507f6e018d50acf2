"""COCO instances, ViTDet's Mask R-CNN on a ViT-B/16, 100 epochs of large-scale jitter.

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_coco.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours): ViTDet's ViT-B from MAE reaches 51.6 box AP and 45.9 mask AP (detectron2,
projects/ViTDet, README; with relative positions, which this recipe lacks). We have not run this
config to its end.
"""

_base_ = "../_base_/mask_rcnn_vit.py"
