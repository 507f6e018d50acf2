"""The study of configs/study/scenes.py on Flickr8k's photographs, 2 seeds: about 150 minutes on two
CPU cores.

python tools/study.py configs/study/flickr8k.py --amp
"""

_base_ = ["../flickr8k/sparc.py", "../_base_/study.py"]

# 500 steps x 64 pairs = 32,000 pairs, 5.3 passes over 5,996 photographs: 8 minutes on one core
schedule = dict(steps=500, warmup=50)
data = dict(global_batch=64)
model = dict(
    vision=dict(overrides=dict(depth=6)),
    text=dict(layers=3),
)
default_hooks = dict(checkpoint=dict(interval=100))
study = dict(
    root="data/flickr8k",
    seeds=(0, 1),
    evaluations=[
        dict(task="retrieval", images="images", captions="captions_val.json"),
        dict(task="faithfulness", images="images", captions="captions_val.json"),
        dict(task="grounding", images="images", phrases="entities_val.json", limit=300),
        dict(task="dependence", images="images", captions="captions_val.json"),
        dict(task="regions", images="images", annotations="boxes_coarse8_val.json"),
    ],
    sweeps=[
        dict(arms=("sparc",), key="model.objective.local_weight", values=(0.5, 1.0, 5.0, 10.0))
    ],
)
