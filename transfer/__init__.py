"""From a run folder to detectors, segmentors and captioners; the only package that imports mmcv,
mmdet or mmseg. Importing it registers everything under the scope ``sparc``.

``transfer.mm`` comes first: it mends the foreign packages before anything of theirs is imported.
"""

from transfer import mm  # isort: split

from sparc_pretrain import engine
from transfer import backbone, captioning, detection, pairs
from transfer.plug import plug  # the function: `transfer.plug(config, run)`
from transfer.run import checkpoints, hooks

__all__ = [
    "backbone",
    "captioning",
    "checkpoints",
    "detection",
    "engine",
    "hooks",
    "mm",
    "pairs",
    "plug",
]
