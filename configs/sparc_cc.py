"""SPARC with the image contrast of whole captions in the place of the paper's local loss, at the
paper's scale: ours, not the paper's. configs/sparc.py is the method as published,
configs/sparc_ic.py the image contrast of single tokens.

    torchrun --nproc-per-node 8 tools/pretrain.py configs/sparc_cc.py --launcher pytorch --amp \\
        --accumulate 4

A caption's score with an image is the mean over its tokens of the cosine with what they gather
there (SPARC's sparse groupings). In fixed groups of 32 pairs captions are contrasted with images
and images with captions, as FILIP does over a whole batch with each token's best patch. So words
that tell nothing ("a", "of") need not tell images apart, and the cost is linear in the batch.
We have not run this config to its end.
"""

_base_ = "./sparc_ic.py"

model = dict(objective=dict(contrast_of="captions", image_negatives=31))
