"""UPerNet on four maps of a ViT-B/16, as BEiT and MAE are fine-tuned (arXiv 2111.06377, app. A.4);
leaves add data, classes and a schedule.
"""

_base_ = [
    "mmseg::_base_/models/upernet_vit-b16_ln_mln.py",
    "mmseg::_base_/default_runtime.py",
]

custom_imports = dict(imports=["transfer"])
task = "segmentation"
model = dict(
    pretrained=None,
    # at test time images are padded to whole patches, and the padding is cut off the prediction
    data_preprocessor=dict(test_cfg=dict(size_divisor=16)),
    backbone=dict(
        _delete_=True,
        type="sparc.SparcViT",
        vision=dict(arch="vit_base_patch16_224", width=768),
        out_indices=(3, 5, 7, 11),
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type="Feature2Pyramid", embed_dim=768, rescales=[4, 2, 1, 0.5]),
    decode_head=dict(channels=768),
    auxiliary_head=dict(in_index=2),
)
