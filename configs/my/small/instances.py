"""Your own instances with masks on a CPU or for a first look: Mask R-CNN at 224 px, classes read
from your files.

    python tools/train.py configs/my/small/instances.py --backbone RUN --data DIR

For numbers that you would show, configs/my/instances.py; see docs/your_data.md.
"""

_base_ = "../../_base_/mask_rcnn_vit_small.py"

own_data = dict(passes="auto")
optim_wrapper = dict(
    optimizer=dict(lr=3e-4, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay=1.0),
    clip_grad=dict(max_norm=5.0),
)
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", max_keep_ckpts=1), logger=dict(interval=10)
)
