"""Questions about the built-in scenes, for a CPU; chance stands in the files' `info`.

python tools/train.py configs/vlp/scenes_vqa.py --backbone RUN --amp
"""

_base_ = "./vqa.py"

data = "data/quickstart/"
model = dict(answers=f"{data}annotations/vqa_train.json", least=1)
files = dict(data_root=data, size=128, image_name="{:06d}.jpg")
loading = dict(num_workers=0)
train_dataloader = dict(
    **loading,
    dataset=dict(
        **files,
        ann_file="annotations/vqa_train.json",
        answers="annotations/vqa_train.json",
        data_prefix=dict(img="images/train"),
    ),
)
val_dataloader = dict(
    **loading,
    dataset=dict(
        **files,
        ann_file="annotations/vqa_val.json",
        answers="annotations/vqa_val.json",
        data_prefix=dict(img="images/val"),
    ),
)
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_iters=600, val_interval=600)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=60),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=60, end=600),
]
del data, files, loading
