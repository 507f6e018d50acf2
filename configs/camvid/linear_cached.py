"""CamVid, linear probe on the frozen backbone, whose maps are computed once and read from the disk
after: no random transforms, so that there is something to read.

python tools/train.py configs/camvid/linear_cached.py --backbone work_dirs/flickr8k/sparc
"""

_base_ = "./seg.py"

custom_imports = dict(imports=["transfer", "transfer.segmentation.linear_probe"])

model = dict(
    backbone=dict(frozen=True),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type="sparc.LinearProbeHead",
        in_channels=192,
        in_index=0,
        num_classes=11,
        norm_cfg=dict(type="BN"),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="Resize", scale=(224, 224), keep_ratio=False),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [dict(type="sparc.CachedFeaturesHook")]
