"""SPARC with the image contrast of whole captions (ours, see configs/sparc_cc.py) on easy built-in
scenes, for two CPU cores: the backbone of the quickstart. Groups of 8 pairs, for 32 take longer.

python tools/data.py scenes --out data/quickstart --level easy --train 4000 --val 400 --size 128
python tools/pretrain.py configs/quickstart/sparc_cc.py --work-dir work_dirs/quickstart/sparc
"""

_base_ = "./sparc_ic.py"

model = dict(objective=dict(contrast_of="captions", image_negatives=7))
