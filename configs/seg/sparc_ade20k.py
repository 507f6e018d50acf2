"""ADE20K, UPerNet on four maps of the ViT, 512 px, 160k iterations.

    torchrun --nproc-per-node 8 tools/train.py configs/seg/sparc_ade20k.py --backbone RUN \\
        --launcher pytorch --amp

Then `tools/test.py WORK_DIR/sparc_ade20k.py CHECKPOINT --tta` tests at six scales with flips.
Yardstick (not ours): MAE's ViT-B/16 with UPerNet reaches 48.1 mIoU (arXiv 2111.06377, table 5).
"""

_base_ = [
    "../_base_/upernet_vit_b.py",
    "../_base_/poly_160k.py",
    "mmseg::_base_/datasets/ade20k.py",
]

model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
    test_cfg=dict(mode="slide", crop_size={{_base_.crop_size}}, stride=(341, 341)),
)
train_dataloader = dict(batch_size=2)
