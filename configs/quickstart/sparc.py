"""SPARC as published on easy built-in scenes, for two CPU cores; sparc_cc.py is what the quickstart
trains.

python tools/pretrain.py configs/quickstart/sparc.py
"""

_base_ = "../_base_/pretrain.py"

tokenizer = dict(train=400)
# 1,600 steps x 64 pairs = 102,400 pairs, 26 passes over 4,000 scenes
schedule = dict(steps=1600, warmup=80)
data = dict(
    sources="data/quickstart/shards/train-*.tar",
    global_batch=64,
    image_size=128,
    max_tokens=48,
    workers=0,
)
model = dict(
    # a fifth of ViT-Ti: what pays at this scale is more pairs, not more weights
    vision=dict(arch="vit_tiny_patch16_224", overrides=dict(depth=4, embed_dim=96, num_heads=3)),
    text=dict(width=96, layers=2, heads=3),
    width=96,
    objective=dict(type="Sparc", global_weight=0.5, local_weight=1.0),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.1))
