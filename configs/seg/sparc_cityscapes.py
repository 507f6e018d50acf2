"""Cityscapes, 19 classes, crops of 512 x 1024 pixels, 80k iterations.

    torchrun --nproc-per-node 8 tools/train.py configs/seg/sparc_cityscapes.py --backbone RUN \\
        --launcher pytorch --amp

No public number for a plain ViT-B under this recipe is known to us; we have not run it to its end.
"""

_base_ = [
    "../_base_/upernet_vit_b.py",
    "../_base_/poly_80k.py",
    "mmseg::_base_/datasets/cityscapes.py",
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(num_classes=19),
    auxiliary_head=dict(num_classes=19),
    # attention over a whole photograph of 1024 x 2048 would be 16 times that of a crop
    test_cfg=dict(mode="slide", crop_size={{_base_.crop_size}}, stride=(341, 683)),
)
