"""Pascal Context, 59 classes without background, 480 px, 40k iterations.

    torchrun --nproc-per-node 4 tools/train.py configs/seg/sparc_context.py --backbone RUN \\
        --launcher pytorch --amp

No public number for a plain ViT-B under this recipe is known to us; we have not run it to its end.
"""

_base_ = [
    "../_base_/upernet_vit_b.py",
    "../_base_/poly_40k.py",
    "mmseg::_base_/datasets/pascal_context_59.py",
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(num_classes=59),
    auxiliary_head=dict(num_classes=59),
    test_cfg=dict(mode="slide", crop_size={{_base_.crop_size}}, stride=(320, 320)),
)
