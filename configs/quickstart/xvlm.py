"""X-VLM on the built-in scenes, for two CPU cores: captions and boxes by turns, 2:1.

python tools/pretrain.py configs/quickstart/xvlm.py --amp
"""

_base_ = "./sparc.py"

data = dict(
    sources=[
        dict(shards="data/quickstart/shards/train-*.tar", weight=2),
        dict(shards="data/quickstart/shards/boxes-train-*.tar", weight=1),
    ],
    fields=dict(concepts=5, crop="element"),
    # "a fish" is true of many scenes, so captions are whole and texts that may be true are no
    # negatives; boxes are not learnt without places: docs/results/study_boxes/reading.md
    dataset=dict(caption="longest"),
)
model = dict(
    vision=dict(pos_embed_init="sincos"),
    objective=dict(
        _delete_=True,
        type="Xvlm",
        fusion=dict(layers=3, heads=3, places=True),
        nested="ignore",
    ),
)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={"objective.": dict(lr_mult=2.0)}),
    optimizer=dict(lr=5e-4, weight_decay=0.01),
)
