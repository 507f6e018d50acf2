"""Questions about images (VQA v2) on the Flamingo captioner: the answer is generated.

    torchrun --nproc-per-node 8 tools/train.py configs/caption/flamingo_vqa.py --backbone RUN \\
        --launcher pytorch --amp --cfg-options load_from=CAPTIONER_CHECKPOINT
"""

_base_ = "flamingo_coco.py"

model = dict(max_tokens=8, generation=dict(_delete_=True, num_beams=1))
vqa = dict(_delete_=True, type="sparc.VQADataset", data_root="data/vqa/", size=224)
train_dataloader = dict(
    dataset=dict(
        **vqa,
        ann_file="v2_OpenEnded_mscoco_train2014_questions.json",
        answers="v2_mscoco_train2014_annotations.json",
        data_prefix=dict(img="train2014"),
        image_name="COCO_train2014_{:012d}.jpg",
    )
)
val_dataloader = dict(
    dataset=dict(
        **vqa,
        ann_file="v2_OpenEnded_mscoco_val2014_questions.json",
        answers="v2_mscoco_val2014_annotations.json",
        data_prefix=dict(img="val2014"),
        image_name="COCO_val2014_{:012d}.jpg",
        test_mode=True,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="sparc.VQAMetric")
test_evaluator = val_evaluator
# 443,757 questions / (8 x 64) = 867 steps per epoch; 3 epochs
train_cfg = dict(max_iters=2600, val_interval=867)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=200, end=2600),
]
