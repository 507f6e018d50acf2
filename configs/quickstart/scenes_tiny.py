"""The smallest model that points: SPARC with the image contrast on easy scenes, a minute of a core.

python tools/data.py scenes --out data/scenes_tiny --level easy --train 3000 --val 300 --size 64
python tools/pretrain.py configs/quickstart/scenes_tiny.py --work-dir work_dirs/scenes_tiny
"""

_base_ = "./sparc_ic.py"

schedule = dict(steps=120, warmup=12)  # 7,680 pairs, 2.6 passes
data = dict(sources="data/scenes_tiny/shards/train-*.tar", image_size=48)
model = dict(
    vision=dict(overrides=dict(depth=2, patch_size=8, embed_dim=64, num_heads=2)),
    text=dict(width=64, layers=2, heads=2),
    width=64,
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=60))
