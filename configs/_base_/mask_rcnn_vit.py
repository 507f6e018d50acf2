"""ViTDet-style Mask R-CNN on a ViT-B/16 at 1024 px (arXiv 2203.16527), delta on mmdet's Mask R-CNN
and LSJ data.
"""

_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "mmdet::common/lsj-100e_coco-instance.py"]

custom_imports = dict(imports=["transfer"])
task = "detection"
norm_cfg = dict(type="GN", num_groups=32)
model = dict(
    data_preprocessor=dict(
        batch_augments=[dict(type="BatchFixedSizePad", size=(1024, 1024), pad_mask=True)]
    ),
    backbone=dict(
        _delete_=True,
        type="sparc.SparcViT",
        vision=dict(arch="vit_base_patch16_224", width=768),
        drop_path_rate=0.1,
        window=14,
    ),
    neck=dict(
        _delete_=True, type="sparc.SimplePyramid", in_channels=768, strides=(4, 8, 16, 32, 64)
    ),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor="LayerDecayConstructor",
    paramwise_cfg=dict(layer_decay=0.7),
)
# 64 images per step, as ViTDet
train_dataloader = dict(batch_size=8)
auto_scale_lr = dict(base_batch_size=64)
