"""Kaleido-BERT where it is at home: pictures of one product, with words about it. On scenes of
several objects it sees the largest alone, while captions speak of the others, too.

python tools/data.py scenes --out data/products --level product --train 4000 --val 400 --size 64
python tools/study.py configs/study/scenes_products.py --keep-runs
"""

_base_ = "../_base_/study_boxes.py"

schedule = dict(steps=1200, warmup=120)
data = dict(sources="data/products/shards/train-*.tar")
whole = {"data.dataset.caption": "longest"}
products = {
    **whole,
    "optim_wrapper.optimizer.weight_decay": 0.01,
    "model.vision.pos_embed_init": "sincos",
    "model.text.layers": 0,
    "data.sources": "data/products/shards/boxes-train-*.tar",
    "data.fields": dict(saliency=True, concepts=8, crop="none"),
}
kaleido = {{_base_.kaleido}}
guided = {**products, "model.guide_reading": "boxes"}
study = dict(
    root="data/products",
    arms=dict(
        _delete_=True,
        kaleido=dict(objective=kaleido, options=guided, label="Kaleido-BERT"),
        unguided=dict(objective=kaleido, options=products, label="Kaleido-BERT, masks at random"),
        clip=dict(objective=dict(type="Clip"), options=whole, label="CLIP"),
        random=dict(
            objective=dict(type="Clip"), trained=False, group="control", label="not trained"
        ),
    ),
)
