"""COCO-Stuff 164k, 171 things and stuff, 80k iterations.

    torchrun --nproc-per-node 4 tools/train.py configs/seg/sparc_coco_stuff.py --backbone RUN \\
        --launcher pytorch --amp

No public number for a plain ViT-B under this recipe is known to us; we have not run it to its end.
"""

_base_ = [
    "../_base_/upernet_vit_b.py",
    "../_base_/poly_80k.py",
    "mmseg::_base_/datasets/coco-stuff164k.py",
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(num_classes=171),
    auxiliary_head=dict(num_classes=171),
    test_cfg=dict(mode="slide", crop_size={{_base_.crop_size}}, stride=(341, 341)),
)
