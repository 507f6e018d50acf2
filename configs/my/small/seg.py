"""Your own label maps on a CPU or for a first look: UPerNet on 224 px, classes read from your
files.

    python tools/train.py configs/my/small/seg.py --backbone RUN --data DIR

For numbers that you would show, configs/my/seg.py; see docs/your_data.md.
"""

_base_ = "../../camvid/seg.py"

own_data = dict(passes="auto")
train_dataloader = dict(batch_size=8)
val_dataloader = dict(batch_size=1)  # photographs of different sizes
test_dataloader = val_dataloader
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", max_keep_ckpts=1, interval=1), logger=dict(interval=10)
)
