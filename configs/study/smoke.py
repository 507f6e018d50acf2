"""The smallest study, to try the machinery: four arms, two seeds, under two minutes.

python tools/study.py configs/study/smoke.py
"""

_base_ = "./scenes.py"

tokenizer = dict(train=400)
schedule = dict(steps=4, warmup=1)
data = dict(global_batch=16, image_size=64)
model = dict(
    vision=dict(overrides=dict(depth=2, embed_dim=48, num_heads=2)),
    text=dict(width=32, layers=1, heads=2),
    width=16,
)
default_hooks = dict(logger=dict(interval=1))
study = dict(
    seeds=(0, 1),
    arms=dict(
        _delete_=True,
        sparc=dict(objective=dict(type="Sparc"), label="SPARC"),
        clip=dict(objective=dict(type="Clip"), label="CLIP"),
        random=dict(
            objective=dict(type="Clip"), trained=False, group="control", label="not trained"
        ),
        clip_longer=dict(objective=dict(type="Clip"), as_long_as="sparc", group="control"),
    ),
    sweeps=[
        dict(arms=("sparc",), key="model.objective.local_weight", values=(5.0,), budget=0.5),
    ],
)
