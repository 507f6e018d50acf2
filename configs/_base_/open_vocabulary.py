"""OWL-ViT's recipe (arXiv 2205.06230; scenic's projects/owl_vit/configs/clip_b16.py) for a SPARC
run: ViT-B/16 at 768 px, batches of 256, 140,000 steps. Leaves set the data.

Not as published: losses are divided by the objects of the whole batch, where scenic divides those
of each example by its own; instances of a class that overlap much are not merged in training.
"""

_base_ = "mmdet::_base_/default_runtime.py"

custom_imports = dict(
    imports=[
        "transfer",
        "transfer.detection.open_vocabulary.model",
        "transfer.detection.open_vocabulary.data",
        "transfer.detection.open_vocabulary.engine",
        "transfer.detection.open_vocabulary.transforms",
    ]
)
task = "detection"
image_size = 768
model = dict(
    type="sparc.OpenVocabularyDetector",
    backbone=dict(
        type="sparc.SparcViT",
        vision=dict(arch="vit_base_patch16_224", img_size=224, width=768),
        drop_path_rate=0.2,
        patch=None,  # the run's own: patches are what words were compared with
    ),
    # the paper's text tower; --backbone writes the run's
    text=dict(vocab_size=32_000, width=768, layers=12, heads=12, max_tokens=55),
    width=512,
    text_drop_path=0.1,
    tokenizer=None,  # the run's, see --backbone
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=16,
    ),
    test_cfg=dict(max_per_img=300),
)
meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
load_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    # sides of 0.775 to 1: an area of at least 0.6
    dict(
        type="RandomCrop",
        crop_type="relative_range",
        crop_size=(0.775, 0.775),
        allow_negative_crop=True,
    ),
]
mosaic_pipeline = [
    dict(type="GridMosaic", size=image_size, grids=(1, 2, 3), probs=(0.4, 0.3, 0.3)),
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
    # a square, so that what is found does not depend on the other images of a batch
    dict(type="Pad", size=(image_size, image_size), pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs", meta_keys=(*meta, "text")),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="MultiImageMixDataset",
        pipeline=mosaic_pipeline,
        dataset=dict(
            type="sparc.OpenVocabularyDataset",
            filter_cfg=dict(filter_empty_gt=False),
            pipeline=load_pipeline,
        ),
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="sparc.OpenVocabularyDataset", test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="sparc.DetectionMetric", iou_types=("bbox",), style="coco")
test_evaluator = val_evaluator
train_cfg = dict(type="IterBasedTrainLoop", max_iters=140_000, val_interval=20_000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
# Text tower at 2e-6 = 0.04 x 5e-5. scenic clips the gradient of each example to 1; here that of the
# whole batch is, which is what a framework with one backward pass per batch can do.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=5e-5, betas=(0.9, 0.999), weight_decay=0.0),
    clip_grad=dict(max_norm=1.0),
    constructor="TextRateConstructor",
    paramwise_cfg=dict(text_lr_mult=0.04),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=1_000),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=1_000, end=140_000),
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5_000, max_keep_ckpts=2))
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type="sparc.TokenizerFileHook")]
auto_scale_lr = dict(base_batch_size=256)
