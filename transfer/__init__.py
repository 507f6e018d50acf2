"""From a run folder to detectors, segmentors and captioners; the only package that imports mmcv,
mmdet or mmseg.

``transfer.mm`` comes first: it mends the foreign packages before anything of theirs is imported.
"""

from transfer import mm  # noqa: F401
