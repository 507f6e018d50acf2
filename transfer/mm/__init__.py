"""What mmcv, mmdet and mmsegmentation need mended, and the stand-in for mmcv's kernels."""

from transfer.mm.patches import SCOPES, install, locate, mend_external_bases, register

__all__ = ["SCOPES", "install", "locate", "mend_external_bases", "register"]
