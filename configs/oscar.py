"""Oscar at the paper's scale (arXiv 2004.06165): words, tags and regions in one stream.

    torchrun --nproc-per-node 8 tools/pretrain.py configs/oscar.py --launcher pytorch --amp

As configs/uniter.py, regions are RoIAlign over our own ViT-B/16; tags are the sample's, or the
class names of its boxes. `kinds=3` is OSCAR+'s. We have not run this config to its end.
"""

_base_ = "./sparc.py"

schedule = dict(steps=1_000_000, warmup=10_000)
data = dict(
    sources="data/pretrain/boxes-{000000..001999}.tar",
    fields=dict(tags=20, regions=50, crop="element"),
    global_batch=768,
)
model = dict(
    text=dict(layers=0),
    objective=dict(_delete_=True, type="Oscar", fusion=dict(layers=12, heads=12)),
)
optim_wrapper = dict(
    optimizer=dict(lr=5e-5, weight_decay=0.01),
    # four times the rate for what starts at random
    paramwise_cfg=dict(
        custom_keys={"objective.": dict(lr_mult=4.0), "encoder.text.": dict(lr_mult=4.0)}
    ),
)
