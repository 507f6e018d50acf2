"""SPARC with the image contrast on the built-in scenes: configs/quickstart/sparc.py with another
local loss, see configs/sparc_ic.py.

python tools/pretrain.py configs/quickstart/sparc_ic.py --amp
"""

_base_ = "./sparc.py"

model = dict(
    objective=dict(local_weight=0.0, image_contrast=1.0, image_negatives=1, token_context="both")
)
