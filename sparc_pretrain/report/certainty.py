"""Whether a difference of two starts is more than chance: what may be coloured on a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from scipy.stats import t

LEVEL = 0.95


def welch(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of mean(first) - mean(second) of runs that differ by their seed (Welch
    1947); None with fewer than two runs of one of them, or where no run differs from its like:
    that is no noise of zero, it is none that was seen.
    """
    if min(len(first), len(second)) < 2:
        return None
    gap = fmean(first) - fmean(second)
    parts = [variance(values) / len(values) for values in (first, second)]
    spread = sum(parts)
    if spread == 0:
        return None
    freedom = spread**2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    reach = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(spread)
    return gap - reach, gap + reach
