"""A segmentor on frozen backbones, beside transfer_easy.py, whose backbones are fine-tuned: 10
minutes of one CPU core a cell.

python tools/data.py scenes --out data/quickstart --level easy --train 4000 --val 400 --size 128
python tools/study.py configs/study/transfer_frozen.py
"""

_base_ = "./transfer_easy.py"

study = dict(
    transfers=dict(
        _delete_=True,
        segmentation=dict(
            config="sparc_pretrain::quickstart/seg_frozen.py", metrics=("mIoU", "aAcc")
        ),
    ),
    primary=("segmentation mIoU", "top1", "word_pointing"),
)
