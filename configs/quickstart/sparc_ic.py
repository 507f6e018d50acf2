"""SPARC with the image contrast of single tokens (ours, see configs/sparc_ic.py) on easy built-in
scenes, for two CPU cores.

python tools/data.py scenes --out data/quickstart --level easy --train 4000 --val 400 --size 128
python tools/pretrain.py configs/quickstart/sparc_ic.py --work-dir work_dirs/quickstart/sparc_ic
"""

_base_ = "./sparc.py"

model = dict(objective=dict(local_weight=0.0, image_contrast=1.0, token_context="both"))
