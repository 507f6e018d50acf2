"""X-VLM on Flickr8k's training photographs with the boxes of Flickr30k Entities.

    python tools/data.py boxes --kind entities --images data/flickr8k/images \\
        --annotations data/flickr8k/entities_train.json \\
        --out data/flickr8k_shards/boxes
    python tools/pretrain.py configs/flickr8k/xvlm.py --amp
"""

_base_ = "./sparc.py"

data = dict(
    sources=[
        dict(shards="data/flickr8k_shards/train/*.tar", weight=2),
        dict(shards="data/flickr8k_shards/boxes/*.tar", weight=1),
    ],
    fields=dict(concepts=5, crop="element"),
)
model = dict(
    objective=dict(_delete_=True, type="Xvlm", fusion=dict(layers=3, heads=3, places=True)),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"objective.": dict(lr_mult=2.0)}))
