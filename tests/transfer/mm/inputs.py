"""What the tests of mmcv's operations share."""

import importlib

import torch
from torch import Tensor

import transfer.mm  # noqa: F401 - without compiled ops mmcv.ops needs it first

mmcv_ops = importlib.import_module("mmcv.ops")
HALVES = (torch.float16, torch.bfloat16)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
