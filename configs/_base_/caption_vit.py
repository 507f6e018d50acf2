"""A small captioner: frozen ViT-Ti/16, LLaVA's projector, 4-layer GPT-2 trained from random weights
(no download needed).
"""

default_scope = "mmengine"
custom_imports = dict(imports=["transfer"])
task = "captioning"
model = dict(
    type="sparc.FlamingoCaptioner",
    max_tokens=40,
    bridge=dict(kind="mlp", grid=4),
    tokenizer=None,  # the run's, see --backbone
    backbone=dict(
        type="sparc.SparcViT", vision=dict(arch="vit_tiny_patch16_224", img_size=128, width=192)
    ),
    language_model=dict(model_type="gpt2", n_layer=4, n_embd=192, n_head=3),
    data_preprocessor=dict(
        type="sparc.ImagesPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
    ),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="sparc.CaptionDataset", size=128),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="sparc.CaptionDataset", size=128, test_mode=True),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="sparc.CaptionMetric")
test_evaluator = val_evaluator
train_cfg = dict(type="IterBasedTrainLoop", max_iters=400, val_interval=400)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    constructor="GroupedConstructor",  # biases, norms, gates and positions are not decayed
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=50, end=400),
]
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1000, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False, window_size=20)
custom_hooks = [dict(type="sparc.CaptionerFilesHook")]
