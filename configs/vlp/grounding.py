"""Fine-tuning an X-VLM run on phrases with boxes (RefCOCO, Flickr30k Entities): box terms alone. It
is a pre-training that goes on from another run's weights.

    torchrun --nproc-per-node 8 tools/pretrain.py configs/vlp/grounding.py --amp \\
        --launcher pytorch --cfg-options model.init_from=RUN data.sources='data/refcoco/boxes-*.tar'

Rates and length are the paper's order of size (10 passes); we have not run it at this size.
"""

_base_ = "../xvlm.py"

# RefCOCO+: 120,624 expressions / 256 = 471 steps a pass
schedule = dict(steps=4710, warmup=471)
data = dict(
    sources="data/refcoco/boxes-*.tar",
    fields=dict(concepts=5, crop="none"),
    global_batch=256,
    image_size=384,
)
model = dict(objective=dict(weights=dict(itc=0, itm=0, mlm=0)))
optim_wrapper = dict(optimizer=dict(lr=3e-5))
