"""Your own label maps: UPerNet on a ViT, classes and length of training read from your files.

    python tools/train.py configs/my/seg.py --backbone RUN --data DIR --amp

docs/your_data.md says what DIR holds, what fits a GPU, and how long it takes.
"""

_base_ = ["../seg/sparc_ade20k.py"]

own_data = dict(passes="auto")  # 100 over 200 photographs, 50 over 2,000, 25 over 20,000
train_dataloader = dict(batch_size=8)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best="mIoU"))
