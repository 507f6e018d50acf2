"""What options of the zero-shot tasks may be: data alone, so that a command line is read without
importing torch.
"""

from __future__ import annotations

ENSEMBLES = ("auto", "embedding", "score")  # of prompt templates, see prompts
# Karpathy's test splits: name -> (images, folds whose recalls are averaged). Five captions each.
PROTOCOLS = {"karpathy-1k": (1000, 1), "karpathy-5k": (5000, 1), "coco-1k": (5000, 5)}
UPSAMPLING = {"labels": "nearest", "scores": "bilinear"}  # of patches to pixels, see dense
BACKGROUNDS = ("none", "class", "threshold")  # see segmentation
