"""The paper's captioner (sec. 4.6): a frozen ViT-B/16 and a frozen language model of 400M
parameters, resampler and gated cross-attention trained on pre-training pairs for 250k steps at
1e-4, 5k of them warm-up; tested zero-shot on COCO.

    torchrun --nproc-per-node 8 tools/train.py configs/caption/flamingo_coco.py --backbone RUN \\
        --launcher pytorch --amp

Expected (the paper's data and language model, not public): CIDEr 24.3 with CLIP's backbone, 25.3
with SPARC's, in units of 100 times ours.
"""

_base_ = "../_base_/caption_flamingo.py"

model = dict(
    backbone=dict(vision=dict(arch="vit_base_patch16_224", img_size=224, width=768)),
    language_model=dict(
        pretrained="EleutherAI/pythia-410m", dtype="bfloat16", pad_token="<|endoftext|>"
    ),
    bridge=dict(latents=64, depth=6, every=4, heads=8),
    recompute=True,
    generation=dict(num_beams=3),
)
train_dataloader = dict(
    num_workers=4,
    batch_sampler=None,  # shards do not know the lengths of their captions
    dataset=dict(_delete_=True, type="sparc.ShardCaptionDataset", shards="data/pairs", size=224),
)
coco = dict(data_root="data/coco/", size=224)
coco_val = dict(ann_file="annotations/captions_val2017.json", data_prefix=dict(img="val2017"))
val_dataloader = dict(num_workers=4, dataset=dict(**coco, **coco_val))
test_dataloader = val_dataloader
train_cfg = dict(max_iters=250000, val_interval=25000)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=5000),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=5000, end=250000),
]
optim_wrapper = dict(optimizer=dict(lr=1e-4))
