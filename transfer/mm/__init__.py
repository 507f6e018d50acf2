"""What mmcv, mmdet and mmsegmentation need mended, and the stand-in for mmcv's kernels."""

from transfer.mm.patches import install, locate, mend_lvis, register

__all__ = ["install", "locate", "mend_lvis", "register"]
