"""LVIS v1 instances: 1,203 categories, repeat-factor sampling, a federated loss; AP and Fixed AP.

    torchrun --nproc-per-node 8 tools/train.py configs/det/sparc_lvis.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick (not ours): ViTDet's ViT-B from MAE reaches 40.2 box AP and 38.2 mask AP (ordinary AP, 300
detections per image; detectron2, projects/ViTDet, README; with relative positions, which this
recipe lacks). We have not run this to its end.
"""

_base_ = "./sparc_coco.py"

root = "data/lvis_v1/"
train_file, val_file = "annotations/lvis_v1_train.json", "annotations/lvis_v1_val.json"
loss_cls = dict(
    _delete_=True, type="sparc.FederatedLoss", num_classes=1203, ann_file=root + train_file
)
model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes=1203, loss_cls=loss_cls), mask_head=dict(num_classes=1203)
    ),
    # ordinary AP keeps 300 of these per image, Fixed AP 10,000 per class
    test_cfg=dict(rcnn=dict(score_thr=0.02, max_per_img=1000)),
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="sparc.RepeatFactorDataset",  # repeat-factor sampling (arXiv 1908.03195, App. B)
        oversample_thr=1e-3,
        dataset=dict(
            type="LVISV1Dataset",
            data_root=root,
            ann_file=train_file,
            data_prefix=dict(img=""),
            filter_cfg=dict(filter_empty_gt=True, min_size=32),
            pipeline={{_base_.train_pipeline}},
        ),
    )
)
val_dataloader = dict(
    dataset=dict(type="LVISV1Dataset", data_root=root, ann_file=val_file, data_prefix=dict(img=""))
)
test_dataloader = val_dataloader
val_evaluator = dict(type="sparc.FixedDetectionMetric", ann_file=root + val_file, style="lvis")
test_evaluator = val_evaluator
# 100 epochs of 100,000 images: repeat factors stretch an epoch, so it is passed over 100 times
train_cfg = dict(max_epochs=100, val_interval=10)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=250),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=100, milestones=[89, 96], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(lr=2e-4))
