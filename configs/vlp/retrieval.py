"""Fine-tuning an X-VLM run on one data set's captions, for retrieval: contrast and matching alone,
equal texts share what is right. It is a pre-training that goes on from another run's weights.

    torchrun --nproc-per-node 8 tools/pretrain.py configs/vlp/retrieval.py --amp \\
        --launcher pytorch --cfg-options model.init_from=RUN data.sources='data/coco/captions-*.tar'

Rates and length are the paper's order of size (10 passes); we have not run it at this size.
"""

_base_ = "../xvlm.py"

# 113,287 images x 5 captions / 1,024 = 553 steps a pass
schedule = dict(steps=5530, warmup=553)
data = dict(
    sources="data/coco/captions-*.tar",
    fields=dict(_delete_=True, concepts=1),
    image_size=384,
)
model = dict(objective=dict(weights=dict(mlm=0, box_l1=0, box_giou=0), same="share"))
optim_wrapper = dict(optimizer=dict(lr=3e-5))
