"""The small model of assets/sparc-scenes-tiny: SPARC with the image contrast on easy scenes.

python tools/data.py scenes --out data/scenes_easy --level easy --train 3000 --val 300 --size 64
python tools/pretrain.py configs/quickstart/scenes_tiny.py --work-dir work_dirs/scenes_tiny
"""

_base_ = "./sparc_ic.py"

tokenizer = dict(train=400)
schedule = dict(steps=200, warmup=20)  # 12,800 pairs, 4.3 passes: a minute or two of one core
data = dict(sources="data/scenes_easy/shards/train-*.tar", image_size=64)
model = dict(
    vision=dict(overrides=dict(depth=3, patch_size=8, embed_dim=96, num_heads=3)),
    text=dict(width=96, layers=2, heads=3),
    width=96,
)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=100))
