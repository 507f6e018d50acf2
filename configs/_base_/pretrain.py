"""What all pre-training runs share; leaves set data, schedule, towers and the objective."""

default_scope = "mmengine"

tokenizer = dict(train=32000)

# SPARC's towers: ViT-B/16 and a 12-layer text encoder of width 768, shared width 512 (App. D.3)
model = dict(
    type="sparc.Pretrainer",
    vision=dict(arch="vit_base_patch16_224"),
    text=dict(width=768, layers=12, heads=12),
    width=512,
)

optim_wrapper = dict(
    type="sparc.GuardedOptimWrapper",
    max_norm=1.0,
    optimizer=dict(type="AdamW", lr=9e-4, betas=(0.9, 0.98), weight_decay=0.2, fused=True),
    constructor="GroupedConstructor",
)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="sparc.CheckpointHook",
        by_epoch=False,
        interval=500,
        minutes=10,
        max_keep_ckpts=2,
        background=True,
    ),
)
custom_hooks = [
    dict(type="sparc.RunFolderHook"),
    dict(type="sparc.ThroughputHook"),
    dict(type="sparc.DataHealthHook"),
    dict(type="sparc.NonFiniteHook"),
    dict(type="sparc.RandomStateHook"),
    dict(type="sparc.PreemptHook"),
]
log_processor = dict(by_epoch=False, window_size=50)
visualizer = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)
randomness = dict(seed=0)
