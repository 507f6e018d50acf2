"""Six objectives, SigLIP and controls on hard scenes, 5 seeds: 4 to 6 minutes of one CPU core
a training.

python tools/data.py scenes --out data/scenes --level hard --train 4000 --val 400 --size 128
python tools/study.py configs/study/scenes.py [--amp]
"""

_base_ = ["../quickstart/sparc.py", "../_base_/study_scenes.py"]

tokenizer = dict(train=1000)
# 560 steps x 64 pairs = 35,840 pairs, 9 passes over 4,000 scenes
schedule = dict(steps=560, warmup=56)
data = dict(sources="data/scenes/shards/train-*.tar")
model = dict(
    vision=dict(overrides=dict(embed_dim=192)),
    text=dict(width=192),
    width=192,
)
default_hooks = dict(checkpoint=dict(interval=160))
study = dict(root="data/scenes", seeds=(0, 1, 2, 3, 4))
