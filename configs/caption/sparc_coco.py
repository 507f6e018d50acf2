"""COCO Captions: a frozen ViT-B/16, LLaVA's projector and GPT-2 small, which learns too, 5 epochs.

    torchrun --nproc-per-node 8 tools/train.py configs/caption/sparc_coco.py --backbone RUN \\
        --launcher pytorch --amp

Yardstick: the paper's Flamingo-style captioner (another model and other data) reaches CIDEr 25.3 on
COCO zero-shot.
"""

_base_ = "../_base_/caption_flamingo.py"

model = dict(
    backbone=dict(vision=dict(arch="vit_base_patch16_224", img_size=224, width=768)),
    # a name on the hub, or a folder that transformers wrote
    language_model=dict(
        pretrained="openai-community/gpt2", pad_token="<|endoftext|>", frozen=False
    ),
    bridge=dict(_delete_=True, kind="mlp", grid=14),
    generation=dict(num_beams=3),
)
train_dataloader = dict(
    num_workers=4,
    dataset=dict(
        data_root="data/coco/",
        ann_file="annotations/captions_train2017.json",
        data_prefix=dict(img="train2017"),
        size=224,
    ),
)
val_dataloader = dict(
    num_workers=4,
    dataset=dict(
        data_root="data/coco/",
        ann_file="annotations/captions_val2017.json",
        data_prefix=dict(img="val2017"),
        size=224,
    ),
)
test_dataloader = val_dataloader
# 591,753 captions / (8 x 64) = 1,156 steps per epoch; 5 epochs
train_cfg = dict(max_iters=5780, val_interval=1156)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=500, end=5780),
]
optim_wrapper = dict(optimizer=dict(lr=2e-4))
