"""SPARC on Flickr8k's 5,996 training photographs, ViT-Ti/16 at 128 px, for two CPU cores.

    python tools/data.py shards --images data/flickr8k/images \\
        --captions data/flickr8k/captions_train.json \\
        --out data/flickr8k_shards/train
    python tools/pretrain.py configs/flickr8k/sparc.py --amp
"""

_base_ = "../quickstart/sparc.py"

tokenizer = dict(train=6000)
# 1,000 steps x 128 pairs = 128,000 pairs, 21 passes over 5,996 photographs
schedule = dict(steps=1_000, warmup=100)
data = dict(
    sources="data/flickr8k_shards/train/*.tar",
    global_batch=128,
    max_tokens=40,
    dataset=dict(scale=(0.5, 1.0), flip=0.5),
)
model = dict(
    width=256,
    vision=dict(_delete_=True, arch="vit_tiny_patch16_224"),
    text=dict(layers=4),
)
