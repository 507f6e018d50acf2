"""FCOS on Flickr8k's boxes in 762 long-tail classes, derived and noisy, by LVIS's rules (repeat
factors, APr/c/f, AP beside Fixed AP), for two CPU cores.

python tools/train.py configs/flickr8k/det_lvis.py --backbone work_dirs/flickr8k/sparc --amp
"""

_base_ = ["./det.py", "../_base_/flickr8k_nouns.py"]

root = "data/flickr8k/"
boxes = dict(
    type="LVISV05Dataset",  # images by file name, where v1 has their address
    data_root=root,
    metainfo=dict(classes={{_base_.nouns}}),
    data_prefix=dict(img="images/"),
)
model = dict(
    bbox_head=dict(num_classes=762), test_cfg=dict(score_thr=1e-3, nms_pre=1000, max_per_img=1000)
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="sparc.RepeatFactorDataset",
        oversample_thr=1e-3,
        dataset=dict(
            ann_file="boxes_nouns_lvis_train.json", pipeline={{_base_.train_pipeline}}, **boxes
        ),
    )
)
val_dataloader = dict(dataset=dict(ann_file="boxes_nouns_lvis_val.json", **boxes))
test_dataloader = val_dataloader
# repeat factors make 6,272 of 5,996 images: 392 steps of 16
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=392),
]
val_evaluator = dict(
    type="sparc.FixedDetectionMetric", ann_file=root + "boxes_nouns_lvis_val.json", style="lvis"
)
test_evaluator = val_evaluator
