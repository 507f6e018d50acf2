"""Images, or the images of a sequence, as a captioner wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from sparc_pretrain.registry import MODELS


@MODELS.register_module()
class ImagesPreprocessor(BaseDataPreprocessor):
    """Stacks images [3,H,W], or the images [I,3,H,W] of a sequence, and normalises them.

    Args: mean, std: three numbers each, or one for all, in units of 0..255.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """`inputs` a list of uint8 tensors, or one tensor -> float [B,3,H,W] or [B,I,3,H,W].

        Raises ValueError for sequences with different numbers of images.
        """
        data = self.cast_data(data)
        inputs = data["inputs"]
        shapes = {tuple(one.shape) for one in inputs}
        if len(shapes) > 1:
            raise ValueError(f"a batch needs images of one number and size, not {sorted(shapes)}")
        inputs = inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs))
        return {**data, "inputs": (inputs.float() - self.mean) / self.std}
