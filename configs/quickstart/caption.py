"""Captioning the built-in scenes: about 2 minutes on two CPU cores.

    python tools/train.py configs/quickstart/caption.py --backbone work_dirs/quickstart/sparc --amp
"""
_base_ = '../_base_/caption_vit.py'

train_dataloader = dict(
    dataset=dict(
        data_root='data/scenes/',
        ann_file='annotations/captions_train.json',
        data_prefix=dict(img='images/train')))
val_dataloader = dict(
    dataset=dict(
        data_root='data/scenes/',
        ann_file='annotations/captions_val.json',
        data_prefix=dict(img='images/val')))
test_dataloader = val_dataloader
