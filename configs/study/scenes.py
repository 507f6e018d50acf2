"""Six objectives, SigLIP and controls on hard scenes, 3 seeds: about 120 minutes on two
CPU cores, sweeps included.

python tools/data.py scenes --out data/scenes --train 4000 --val 400 --size 128
python tools/study.py configs/study/scenes.py [--amp]
"""

_base_ = ["../quickstart/sparc.py", "../_base_/study_scenes.py"]

tokenizer = dict(train=1000)
# 320 steps x 64 pairs = 20,480 pairs, 5.1 passes over 4,000 scenes: about 4 minutes on one core
schedule = dict(steps=320, warmup=40)
data = dict(sources="data/scenes/shards/train-*.tar")
model = dict(
    vision=dict(overrides=dict(embed_dim=192)),
    text=dict(width=192),
    width=192,
)
default_hooks = dict(checkpoint=dict(interval=160))
study = dict(root="data/scenes")
