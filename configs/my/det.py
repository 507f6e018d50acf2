"""Your own boxes: ViTDet's Faster R-CNN, classes and length of training read from your files.

    python tools/train.py configs/my/det.py --backbone RUN --data DIR --amp

docs/your_data.md says what DIR holds, what fits a GPU, and how long it takes.
"""

_base_ = "../_base_/faster_rcnn_vit.py"

own_data = dict(passes="auto")  # 100 over 200 photographs, 50 over 2,000, 25 over 20,000
train_dataloader = dict(
    batch_size=4,
    dataset=dict(times=1, dataset=dict(filter_cfg=dict(filter_empty_gt=True, min_size=1))),
)
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best="coco/bbox_AP", rule="greater"))
