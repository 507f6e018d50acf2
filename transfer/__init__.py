"""From a run folder to detectors, segmentors and captioners; the only package that imports mmcv,
mmdet or mmseg. Importing it registers everything under the scope ``sparc``.

``transfer.mm`` comes first: it mends the foreign packages before anything of theirs is imported.
"""

from transfer import mm  # isort: split

from sparc_pretrain import engine
from transfer import (
    backbone,
    cached_features,
    captioning,
    detection,
    hooks,
    layer_decay,
    pyramid,
)
from transfer.plug import plug  # the function: `transfer.plug(config, run)`

__all__ = [
    "backbone",
    "cached_features",
    "captioning",
    "detection",
    "engine",
    "hooks",
    "layer_decay",
    "mm",
    "plug",
    "pyramid",
]
