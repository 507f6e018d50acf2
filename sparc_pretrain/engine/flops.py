"""How much a training computes, and which share of what the device can."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Backward passes compute twice what forward ones do (Kaplan et al., arXiv 2001.08361, sec. 2.1).
# What a recomputation repeats counts once: it is no work that training needs.
PER_FORWARD = 3
COUNTED = 2  # pairs
ROUNDS = 5


@torch.no_grad()
def per_pair(model: nn.Module, batch: Any) -> float:
    """Floating-point operations of training on one pair of `batch`, a Batch as the loader gives it,
    captions as long as there: those of towers and adapters, counted by torch in a forward pass of
    two pairs. Every rank must call it.
    """
    inner = model.module if is_model_wrapper(model) else model
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    # under the counter torch.compile stands back: nothing is compiled for two pairs
    with torch.random.fork_rng(gpus), FlopCounterMode(display=False) as counter:
        prepared = inner.with_views(inner.data_preprocessor(batch))
        inner(prepared.rows(slice(COUNTED)), mode="tensor")
    return PER_FORWARD * counter.get_total_flops() / min(COUNTED, len(batch))


@cache
def product_rate(device: str, dtype: torch.dtype, side: int = 8192) -> float:
    """Floating-point operations per second of a square matrix product of this `side`: what the
    device reaches, which its data sheet does not tell. The median of five.
    """
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        a @ b
        if a.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * side**3 / sorted(times[1:])[ROUNDS // 2]
