"""ADE20K, UPerNet on four maps of the ViT, 512 px, 160k iterations.

    torchrun --nproc-per-node 8 tools/train.py configs/seg/sparc_ade20k.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours): MAE's ViT-B/16 with UPerNet reaches 48.1 mIoU (arXiv 2111.06377, table 5).
"""

_base_ = [
    "mmseg::_base_/models/upernet_vit-b16_ln_mln.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_160k.py",
]

custom_imports = dict(imports=["transfer"])
task = "segmentation"
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="sparc.SparcViT",
        vision=dict(arch="vit_base_patch16_224", width=768),
        out_indices=(3, 5, 7, 11),
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type="Feature2Pyramid", embed_dim=768, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="LayerDecayConstructor",
    paramwise_cfg=dict(layer_decay=0.65),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, begin=1500, end=160000, eta_min=0.0, by_epoch=False),
]
# 16 images per step
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=16)
