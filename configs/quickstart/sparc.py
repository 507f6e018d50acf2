"""SPARC on the built-in scenes, for two CPU cores: 4 to 6 minutes.

python tools/pretrain.py configs/quickstart/sparc.py --amp
"""

_base_ = "../_base_/pretrain.py"

tokenizer = dict(train=1000)
# 560 steps x 64 pairs = 35,840 pairs, 9 passes over 4,000 scenes
schedule = dict(steps=560, warmup=56)
data = dict(
    sources="data/scenes/shards/train-*.tar",
    global_batch=64,
    image_size=128,
    max_tokens=48,
    workers=0,
)
model = dict(
    # half of ViT-Ti's depth: the same loss after the same steps at this scale, in half the time
    vision=dict(arch="vit_tiny_patch16_224", overrides=dict(depth=6)),
    text=dict(width=192, layers=3, heads=3),
    width=192,
    objective=dict(type="Sparc", global_weight=0.5, local_weight=1.0),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=0.1))
