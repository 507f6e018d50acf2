"""The small backbone of the configs for two CPU cores; --backbone puts a run's in its place."""

vit_tiny = dict(arch="vit_tiny_patch16_224", img_size=128, width=192)
small_adamw = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    constructor="LayerDecayConstructor",  # biases, norms and positions are not decayed
    paramwise_cfg=dict(layer_decay=1.0),
    clip_grad=dict(max_norm=1.0),
)
