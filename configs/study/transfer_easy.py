"""What the quickstart's backbones are worth downstream: a detector, a segmentor and a captioner
from SPARC with the caption contrast, from CLIP and from random weights, 5 seeds; 10 to 25 minutes
of one CPU core a cell.

python tools/data.py scenes --out data/quickstart --level easy --train 4000 --val 400 --size 128
python tools/study.py configs/study/transfer_easy.py
"""

_base_ = ["../quickstart/sparc_cc.py", "../_base_/study_transfers.py"]

default_hooks = dict(checkpoint=dict(interval=200))
sparc_cc = {{_base_.model.objective}}
arms = dict(
    _delete_=True,
    sparc_cc=dict(objective=sparc_cc, label="SPARC, caption contrast"),
    clip=dict(objective=dict(type="Clip"), label="CLIP"),
    random=dict(objective=dict(type="Clip"), trained=False, group="control", label="not trained"),
)
downstream = ("detection bbox_AP", "segmentation mIoU", "caption CIDEr", "caption scene-true")
study = dict(
    root="data/quickstart",
    seeds=(0, 1, 2, 3, 4),
    arms=arms,
    sweeps=[],
    primary=(*downstream, "top1", "word_pointing"),  # named before any cell was trained
)
del sparc_cc, arms, downstream
