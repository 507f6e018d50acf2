"""Oscar on the built-in scenes, for two CPU cores.

python tools/pretrain.py configs/quickstart/oscar.py --amp
"""

_base_ = "./sparc.py"

data = dict(
    sources="data/scenes/shards/boxes-train-*.tar",
    fields=dict(tags=12, regions=12, crop="element"),
)
model = dict(
    text=dict(layers=0),
    # captions of scenes have up to 48 tokens
    objective=dict(_delete_=True, type="Oscar", length=48, fusion=dict(layers=3, heads=3)),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"objective.": dict(lr_mult=2.0)}),
    optimizer=dict(lr=5e-4, weight_decay=0.01),
)
