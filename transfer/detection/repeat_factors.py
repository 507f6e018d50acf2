"""Repeat-factor sampling of long-tail data (Gupta et al., "LVIS", arXiv 1908.03195, app. B.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ClassBalancedDataset

from sparc_pretrain.registry import DATASETS


@DATASETS.register_module()
class RepeatFactorDataset(ClassBalancedDataset):
    """mmengine's ClassBalancedDataset, whose factors are rounded up there: an image of factor 1.01
    is seen twice. Here a factor r is rounded up with probability r - floor(r), as detectron2 does,
    so that an image is seen r times in the mean; drawn once, not anew in each epoch.

    Args:
        seed: of the rounding. The others as there: `dataset`, `oversample_thr`.
    """

    def __init__(self, *args: Any, seed: int = 0, **options: Any) -> None:
        self.seed = seed
        super().__init__(*args, **options)

    def _get_repeat_factors(self, dataset: BaseDataset, repeat_thr: float) -> list[float]:
        """A whole number for each image of `dataset`."""
        factors = np.array(super()._get_repeat_factors(dataset, repeat_thr))
        whole = np.floor(factors)
        up = np.random.default_rng(self.seed).random(len(factors)) < factors - whole
        return (whole + up).tolist()
