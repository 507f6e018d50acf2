"""Six objectives, SigLIP and controls on the built-in scenes, 3 seeds: about 120 minutes on two
CPU cores, sweeps included.

python tools/study.py configs/study/scenes.py [--amp]
"""

_base_ = ["../quickstart/sparc.py", "../_base_/study_scenes.py"]

# 320 steps x 64 pairs = 20,480 pairs, 5.1 passes over 4,000 scenes: about 4 minutes on one core
schedule = dict(steps=320, warmup=40)
model = dict(
    vision=dict(overrides=dict(depth=4)),
    text=dict(layers=2),
)
default_hooks = dict(checkpoint=dict(interval=160))
study = dict(root="data/scenes")
