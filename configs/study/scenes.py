"""Six objectives, SigLIP and controls on the built-in scenes, 3 seeds: about 120 minutes on two
CPU cores, sweeps included.

python tools/study.py configs/study/scenes.py [--amp]
"""

_base_ = ["../quickstart/sparc.py", "../_base_/study.py"]

# 320 steps x 64 pairs = 20,480 pairs, 5.1 passes over 4,000 scenes: about 4 minutes on one core
schedule = dict(steps=320, warmup=40)
model = dict(
    vision=dict(overrides=dict(depth=4)),
    text=dict(layers=2),
)
default_hooks = dict(checkpoint=dict(interval=160))
study = dict(
    evaluations=[
        dict(
            task="retrieval",
            images="data/scenes/images/val",
            captions="data/scenes/annotations/captions_val.json",
        ),
        dict(
            task="faithfulness",
            images="data/scenes/images/val",
            captions="data/scenes/annotations/captions_val.json",
        ),
        dict(
            task="segmentation",
            images="data/scenes/ade/images/validation",
            annotations="data/scenes/ade/annotations/validation",
            classes="data/scenes/ade/classes.txt",
        ),
        dict(
            task="grounding",
            images="data/scenes/images/val",
            phrases="data/scenes/annotations/phrases_val.json",
        ),
        dict(
            task="dependence",
            images="data/scenes/images/val",
            captions="data/scenes/annotations/captions_val.json",
        ),
        dict(
            task="regions",
            images="data/scenes/images/val",
            annotations="data/scenes/annotations/instances_val.json",
        ),
    ],
)
