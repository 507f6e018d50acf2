"""Your own boxes on a CPU or for a first look: FCOS at 192 px, classes read from your files.

    python tools/train.py configs/my/small/det.py --backbone RUN --data DIR

For numbers that you would show, configs/my/det.py; see docs/your_data.md.
"""

_base_ = "../../_base_/fcos_vit.py"

own_data = dict(passes="auto")
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", max_keep_ckpts=1), logger=dict(interval=10)
)
