"""X-VLM with the boxes of Flickr30k Entities beside CLIP at equal pairs, on Flickr8k's photographs:
about 25 minutes of a CPU core. Its shards: configs/flickr8k/xvlm.py.

python tools/study.py configs/study/flickr8k_boxes.py
"""

_base_ = ["../flickr8k/sparc.py", "../_base_/study.py"]

# 600 steps x 64 pairs = 38,400 pairs, 6.4 passes over 5,996 photographs
schedule = dict(steps=600, warmup=60)
data = dict(global_batch=64)
model = dict(
    vision=dict(overrides=dict(depth=4, embed_dim=96, num_heads=3)),
    text=dict(width=96, layers=2, heads=3),
    width=96,
)
default_hooks = dict(checkpoint=dict(interval=100))
captions = dict(shards="data/flickr8k_shards/train/*.tar", weight=2)
boxes = dict(shards="data/flickr8k_shards/boxes/*.tar", weight=1)
fusion = dict(layers=2, heads=3, dropout=0.0, places=True)
seen = {"data.sources": [captions, boxes], "data.fields": dict(concepts=5, crop="element")}
xvlm = dict(objective=dict(type="Xvlm", fusion=fusion, block=4096), options=seen, label="X-VLM")
random = dict(objective=dict(type="Clip"), trained=False, group="control", label="not trained")
clip = dict(objective=dict(type="Clip"), label="CLIP")
study = dict(
    root="data/flickr8k",
    primary=("R@5",),
    seeds=(0,),
    arms=dict(_delete_=True, clip=clip, xvlm=xvlm, random=random),
    evaluations=[
        dict(
            task="retrieval", images="images", captions="captions_val.json", per_image=1, rerank=16
        ),
        dict(
            task="grounding",
            images="images",
            phrases="entities_val.json",
            train_phrases="entities_train.json",
            limit=300,
        ),
    ],
    sweeps=[],
)
del captions, boxes, fusion, seen, xvlm, random, clip
