"""Kaleido-BERT on the built-in scenes, whose product is the kind of the largest object: two CPU
cores; hidden words and patches are drawn together by the sample's own boxes.

python tools/pretrain.py configs/quickstart/kaleido.py --amp
"""

_base_ = "./sparc.py"

data = dict(
    sources="data/scenes/shards/boxes-train-*.tar",
    fields=dict(saliency=True, concepts=8, crop="none"),
)
model = dict(
    text=dict(layers=0),
    guide_reading="boxes",
    objective=dict(_delete_=True, type="Kaleido", patch_px=32, fusion=dict(layers=3, heads=3)),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"objective.": dict(lr_mult=2.0)}),
    optimizer=dict(lr=5e-4, weight_decay=0.01),
)
