"""What fine-tuning a run on images and texts together shares; leaves set model and data."""

default_scope = "mmengine"
custom_imports = dict(imports=["transfer"])
find_unused_parameters = True  # heads of the pre-training are not used
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(size=224),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(size=224, test_mode=True),
)
test_dataloader = val_dataloader
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-5, weight_decay=0.01),
    constructor="GroupedConstructor",  # biases, norms and positions are not decayed
    paramwise_cfg=dict(custom_keys={"head.": dict(lr_mult=2.0)}),
    clip_grad=dict(max_norm=1.0),
)
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=20),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1000, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False, window_size=20)
