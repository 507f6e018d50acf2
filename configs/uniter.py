"""UNITER at the paper's scale (arXiv 1909.11740): words and regions in one stream.

    torchrun --nproc-per-node 8 tools/pretrain.py configs/uniter.py --launcher pytorch --amp

The paper's regions are vectors of a frozen Faster R-CNN that can no longer be had; here boxes come
with the sample and their vectors are RoIAlign over our own ViT-B/16, which is trained: there is a
backbone to transfer. `regions='files'` reads vectors made elsewhere. All weights start at random
(the paper's are BERT's, post-norm; ours are pre-norm); `model.init_from=RUN` begins with the vision
tower of a SPARC run, or any other. We have not run this config to its end.
"""

_base_ = "./sparc.py"

# the paper's batches are of 10,240 tokens and regions x 2 x 8 GPUs: about 1,800 pairs
schedule = dict(steps=200_000, warmup=10_000)
data = dict(
    sources="data/pretrain/boxes-{000000..001999}.tar",
    fields=dict(regions=36, crop="element"),
    global_batch=1792,
)
model = dict(
    text=dict(layers=0),
    objective=dict(
        _delete_=True,
        type="Uniter",
        fusion=dict(layers=12, heads=12),
        tasks=dict(itm=2, mlm=2, mrfr=1, mrc_kl=1),
    ),
)
optim_wrapper = dict(
    optimizer=dict(lr=5e-5, weight_decay=0.01),
    # four times the rate for what starts at random
    paramwise_cfg=dict(
        custom_keys={"objective.": dict(lr_mult=4.0), "encoder.text.": dict(lr_mult=4.0)}
    ),
)
