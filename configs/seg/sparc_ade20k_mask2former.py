"""ADE20K, Mask2Former on a simple pyramid of the ViT, 512 px, 160k iterations.

    torchrun --nproc-per-node 8 tools/train.py configs/seg/sparc_ade20k_mask2former.py \\
        --backbone RUN --launcher pytorch --amp

No public number for a plain ViT-B under this recipe is known to us. For scale (not ours):
mmsegmentation's Mask2Former reaches 47.87 mIoU on a ResNet-50 and 52.44 on a Swin-B from
ImageNet-1k at 640 px. We have not run this config to its end.
"""

_base_ = "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py"

custom_imports = dict(imports=["transfer", "mmdet.models"])
task = "segmentation"
model = dict(
    backbone=dict(
        _delete_=True,
        type="sparc.SparcViT",
        vision=dict(arch="vit_base_patch16_224", width=768),
        drop_path_rate=0.1,
    ),
    neck=dict(type="sparc.SimplePyramid", in_channels=768),
    decode_head=dict(in_channels=[256] * 4),
)
no_decay = dict(lr_mult=1.0, decay_mult=0.0)
optim_wrapper = dict(
    constructor="LayerDecayConstructor",
    paramwise_cfg=dict(
        _delete_=True,
        layer_decay=0.8,
        custom_keys={name: no_decay for name in ("query_embed", "query_feat", "level_embed")},
    ),
)
