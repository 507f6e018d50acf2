"""UPerNet on a ViT-Ti/16 with four pyramid levels, small enough for two CPU cores; a delta on
mmseg's UPerNet.
"""

_base_ = [
    "mmseg::_base_/models/upernet_vit-b16_ln_mln.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_20k.py",
    "./vit_tiny.py",
]

custom_imports = dict(imports=["transfer"])
task = "segmentation"
norm_cfg = dict(type="GN", num_groups=16)
model = dict(
    pretrained=None,
    # at test time images are padded to whole patches, and the padding is cut off the prediction
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    backbone=dict(_delete_=True, type="sparc.SparcViT", vision={{_base_.vit_tiny}}),
    neck=dict(
        _delete_=True,
        type="sparc.SimplePyramid",
        in_channels=192,
        out_channels=64,
        strides=(4, 8, 16, 32),
    ),
    decode_head=dict(in_channels=[64] * 4, channels=64, norm_cfg=norm_cfg),
    auxiliary_head=None,
)
optim_wrapper = dict(_delete_=True, **_base_.small_adamw)
train_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
default_hooks = dict(
    logger=dict(interval=20), checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=500)
)
log_processor = dict(window_size=20)
