"""UNITER on Flickr8k's training photographs with the boxes of Flickr30k Entities.

The boxes are made as configs/flickr8k/xvlm.py says; they have no class names, so no MRC.

    python tools/pretrain.py configs/flickr8k/uniter.py --amp
"""

_base_ = "./sparc.py"

data = dict(sources="data/flickr8k_shards/boxes/*.tar", fields=dict(regions=16, crop="element"))
model = dict(
    text=dict(layers=0),
    objective=dict(_delete_=True, type="Uniter", fusion=dict(layers=3, heads=3)),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"objective.": dict(lr_mult=2.0)}))
