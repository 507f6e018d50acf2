"""A small Flamingo: frozen ViT-Ti/16, resampler of 32 latents, gated cross-attention before every
second layer of a frozen language model of tools/pretrain_lm.py.
"""

_base_ = "caption_vit.py"

model = dict(
    language_model=dict(_delete_=True, pretrained="work_dirs/lm"),
    bridge=dict(_delete_=True, kind="cross_attention", latents=32, depth=2, every=2, heads=4),
)
train_dataloader = dict(batch_sampler=dict(type="sparc.LengthBatchSampler"))
# shots=4 or 8, with source=dict(ann_file=..., data_prefix=...): examples before every image
val_dataloader = dict(dataset=dict(type="sparc.FewShotCaptionDataset", shots=0))
test_dataloader = val_dataloader
val_evaluator = dict(k_precision=True, resamples=1000)
test_evaluator = val_evaluator
custom_hooks = [dict(type="sparc.CaptionerFilesHook"), dict(type="sparc.CostHook")]
