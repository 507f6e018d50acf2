"""UNITER on the built-in scenes, for two CPU cores: all terms in every step.

python tools/pretrain.py configs/quickstart/uniter.py --amp
"""

_base_ = "./sparc.py"

data = dict(sources="data/scenes/shards/boxes-train-*.tar", fields=dict(regions=12, crop="element"))
model = dict(
    text=dict(layers=0),
    objective=dict(
        _delete_=True,
        type="Uniter",
        fusion=dict(layers=3, heads=3),
        weights=dict(mrc=1),
    ),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"objective.": dict(lr_mult=2.0)}),
    optimizer=dict(lr=5e-4, weight_decay=0.01),
)
