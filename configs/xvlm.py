"""X-VLM at the paper's scale (arXiv 2111.08276): captions and boxes by turns, 2:1.

    torchrun --nproc-per-node 8 tools/pretrain.py configs/xvlm.py --launcher pytorch --amp

The vision tower is SPARC's ViT-B/16, where the paper has a Swin-B that starts from ImageNet, and
all weights start at random (the paper's text tower and fusion encoder are BERT's, post-norm; ours
are pre-norm). `model.init_from` takes the towers of a SPARC, CLIP or SigLIP run that has a mask
token. We have not run this config to its end.
"""

_base_ = "./sparc.py"

# 200,000 image steps and, before every other one, a region step: 300,000 in all. 1,024 pairs each:
# 3.07e8 images seen, 2/3 with captions and 1/3 with boxes
schedule = dict(steps=300_000, warmup=2_500)
data = dict(
    sources=[
        dict(shards="data/pretrain/captions-{000000..009999}.tar", weight=2),
        dict(shards="data/pretrain/boxes-{000000..001999}.tar", weight=1),
    ],
    # 48 images x up to 5 boxes in the released code; here as many as an image has, 5 at most
    fields=dict(concepts=5, crop="element"),
    global_batch=1024,
    dataset=dict(scale=(0.2, 1.0), flip=0.5),
)
model = dict(
    text=dict(layers=6),
    objective=dict(_delete_=True, type="Xvlm", fusion=dict(layers=6, heads=12)),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.01),
    # twice the rate for what starts at random: heads, fusion and temperature
    paramwise_cfg=dict(custom_keys={"objective.": dict(lr_mult=2.0)}),
)
