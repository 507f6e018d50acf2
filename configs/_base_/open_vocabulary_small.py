"""The open-vocabulary recipe on a ViT-Ti/16 at 192 px, small enough for two CPU cores."""

_base_ = "./open_vocabulary.py"

image_size = 192
model = dict(
    backbone=dict(
        vision=dict(arch="vit_tiny_patch16_224", img_size=128, width=192), drop_path_rate=0.0
    ),
    text=dict(vocab_size=1000, width=192, layers=3, heads=3, max_tokens=48),
    width=192,
    text_drop_path=0.0,
    scale=10.0,  # hundreds of steps are too few to learn it from 1
    # Words alone: a text tower of some ten thousand captions tells CLIP's templates apart, not the
    # words in them (scenes: one word under two of them has cosine 0.68, two words have 0.68).
    train_templates=["{}"],
    test_templates=["{}"],
)
mosaic_pipeline = [
    dict(type="GridMosaic", size=image_size, grids=(1, 2), probs=(0.7, 0.3)),
    dict(type="FederatedQueries", negatives=50, max_queries=100),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "img_shape", "query_names", "regions", "known"),
    ),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(image_size, image_size), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Pad", size=(image_size, image_size), pad_val=dict(img=(114, 114, 114))),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "text"),
    ),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=mosaic_pipeline),
)
val_dataloader = dict(
    batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(type="sparc.FixedDetectionMetric", style="lvis")
test_evaluator = val_evaluator
train_cfg = dict(max_iters=800, val_interval=800)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(text_lr_mult=0.1),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=800),
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=1000))
log_processor = dict(window_size=20)
