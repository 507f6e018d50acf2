"""FCOS on the built-in scenes, 36 categories: about 3 minutes on two CPU cores.

    python tools/train.py configs/quickstart/det.py --backbone work_dirs/quickstart/sparc --amp
"""
_base_ = ['../_base_/fcos_vit.py', '../_base_/scenes.py']

model = dict(bbox_head=dict(num_classes=36))
train_dataloader = dict(
    dataset=dict(
        data_root='data/scenes/',
        metainfo=dict(classes={{_base_.scene_things}}),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/')))
val_dataloader = dict(
    dataset=dict(
        data_root='data/scenes/',
        metainfo=dict(classes={{_base_.scene_things}}),
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='images/val/')))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='data/scenes/annotations/instances_val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=3, val_interval=3)
# 2,000 images / 16 = 125 steps per epoch
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=50, end=375)
]
