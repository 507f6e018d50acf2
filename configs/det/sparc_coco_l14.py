"""COCO instances, ViTDet's Mask R-CNN on a ViT-L/14 (patches resampled to 16 px).

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_coco_l14.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours): ViTDet's ViT-L/16 from MAE reaches 55.5 box AP and 49.2 mask AP (detectron2,
projects/ViTDet, README; with relative positions, which this recipe lacks). We have not run this
config to its end.
"""

_base_ = ["./sparc_coco.py", "../_base_/vit_l14.py"]

model = dict(
    backbone=dict(vision={{_base_.vit_l14}}, drop_path_rate=0.4), neck=dict(in_channels=1024)
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay=0.8))
