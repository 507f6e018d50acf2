"""The study to decide, on easy scenes: SPARC with the image contrast beside CLIP, SPARC as
published and their shuffled twins, small enough for 5 seeds on two CPU cores.

python tools/data.py scenes --out data/scenes_easy --level easy --train 4000 --val 400 --size 64
python tools/study.py configs/study/scenes_easy.py
"""

_base_ = "./scenes.py"

tokenizer = dict(train=400)
# 400 steps x 64 pairs = 25,600 pairs, 6.4 passes over 4,000 scenes
schedule = dict(steps=400, warmup=40)
data = dict(sources="data/scenes_easy/shards/train-*.tar", image_size=64)
model = dict(
    vision=dict(overrides=dict(depth=4, patch_size=8, embed_dim=96, num_heads=3)),
    text=dict(width=96, layers=2, heads=3),
    width=96,
)
default_hooks = dict(checkpoint=dict(interval=100))
_ours, _both = dict(arms=("sparc_ic",), budget=1), dict(arms=("sparc_ic", "sparc_cc"), budget=1)
study = dict(
    root="data/scenes_easy",
    sweeps=[
        dict(_ours, key="model.objective.image_negatives", values=(3, 7, 15, 31)),
        dict(_ours, key="model.objective.token_context", values=("text", "none")),
        dict(arms=("sparc_cc",), budget=1, key="model.objective.image_negatives", values=(7,)),
        dict(_both, key="model.objective.alignment", values=("softmax",)),
        dict(_both, key="model.objective.threshold", values=(0.0, 0.25)),
        dict(_both, key="model.objective.detach", values=(True,)),
        dict(_both, key="model.objective.skip_special", values=(True,)),
        dict(_both, key="model.objective.local_temperature", values=(True,)),
    ],
)
del _ours, _both
