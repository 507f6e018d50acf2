"""ADE20K, linear probe: batch norm and one 1x1 convolution on the frozen backbone's last map.

    torchrun --nproc-per-node 8 tools/train.py configs/seg/sparc_ade20k_linear.py \\
        --backbone RUN --launcher pytorch
"""

_base_ = "./sparc_ade20k.py"

custom_imports = dict(imports=["transfer", "transfer.segmentation.linear_probe"])

model = dict(
    backbone=dict(out_indices=(-1,), frozen=True, drop_path_rate=0.0),
    neck=None,
    auxiliary_head=None,
    decode_head=dict(
        _delete_=True,
        type="sparc.LinearProbeHead",
        in_channels=768,
        in_index=0,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
)
optim_wrapper = dict(
    _delete_=True, type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-4)
)
