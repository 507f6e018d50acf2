"""Does bfloat16 pay on this CPU? Some (AMX, AVX512-BF16 of AMD) are two to eight times as fast in
it, others have the instructions and are slower than in float32.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from mmengine.logging import print_log

SIDE, ROUNDS = 512, 6  # of the trial product: 0.5 GFLOP; some 60 ms in all


@cache
def bfloat16_speedup() -> float:
    """Time of a float32 matrix product on this CPU over that of a bfloat16 one, measured once per
    process: above 1, autocast is likely to pay.
    """
    spent: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(ROUNDS):  # in turn, and in this thread's own time: other work disturbs both
        for dtype, times in spent.items():
            left, right = (
                torch.ones(2 * SIDE, SIDE, dtype=dtype),
                torch.ones(SIDE, SIDE, dtype=dtype),
            )
            started = time.thread_time()
            torch.mm(left, right)
            times.append(time.thread_time() - started)
    return min(spent[torch.float32]) / min(spent[torch.bfloat16])


def amp_pays() -> bool:
    """Whether `--amp` makes training faster on the device that it would run on."""
    return torch.cuda.is_available() or bfloat16_speedup() > 1


def advise(device: str) -> None:
    """Say once, on the main process, when autocast on `device` ('cpu', 'cuda', ...) costs time."""
    if device == "cpu" and bfloat16_speedup() < 0.9:
        _say(f"{1 / bfloat16_speedup():.1f}")


@cache
def _say(times: str) -> None:
    print_log(
        f"--amp: on this CPU a bfloat16 product takes {times} times as long as a float32 one, so "
        "training is faster without --amp",
        logger="current",
        level=30,
    )
