"""Captions cut into groups of similar length, so that a text tower computes little padding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# What a further group costs besides its tokens (kernels started, copies), in tokens of a tower of
# width 192; measured on one core. A wider tower's tokens take longer by the square of its width.
GROUP_TOKENS, GROUP_WIDTH = 60, 192


def caption_lengths(mask: Tensor) -> Tensor:
    """Position of the last real token of mask [B,T], counted from 1: [B] long, 0 without any."""
    return (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(dim=1)


def group_cost(width: int) -> float:
    """What one more group costs a tower of this width, in tokens."""
    return GROUP_TOKENS * (GROUP_WIDTH / width) ** 2


def length_groups(lengths: Tensor, cost: float) -> list[tuple[Tensor, int]]:
    """Rows of a batch, cut by length where that computes the fewest tokens.

    Args:
        lengths: [B] long on the CPU. cost: of a group beside its tokens, in tokens.

    Returns:
        (rows [b] long, ascending; the longest of their lengths, at least 1) per group, the shortest
        captions first: the cut that minimises the sum of rows * longest + cost, by dynamic
        programming over the lengths that occur.
    """
    longest, count = np.unique(lengths.clamp(min=1).numpy(), return_counts=True)
    below = np.concatenate([[0], count.cumsum()])  # captions that are shorter than each length
    least, start = np.zeros(len(longest) + 1), []
    for j, end in enumerate(longest):  # the last group of the captions up to this length
        price = least[: j + 1] + (below[j + 1] - below[: j + 1]) * end + cost
        start.append(int(price.argmin()))
        least[j + 1] = price[start[-1]]
    order = lengths.argsort(stable=True)
    groups, stop = [], len(longest)
    while stop:
        first = start[stop - 1]
        rows = order[below[first] : below[stop]].sort().values
        groups.append((rows, int(longest[stop - 1])))
        stop = first
    return groups[::-1]
