"""Which tokens and patches belong together by a guide's weights, and which of them are hidden
(Kaleido-BERT's AAG and AGM).

Suffixes: B images, T tokens, P cells of the guide's grid, 55 patches of five levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparc_pretrain.objectives.mosaic import SLICES
from sparc_pretrain.towers.regions import box_cells

ALIGNED = (3, 4, 5)  # levels
BUDGET = (1, 2, 3)  # hidden patches of each of them
MOST = 10  # hidden tokens


def aligned_patches(
    weights: Tensor, mask: Tensor, boxes: Tensor, level: Tensor, grid: tuple[int, int]
) -> Tensor:
    """For each token and each of levels 3, 4, 5 the patch with the largest mean weight over its
    cells (the first of equals) [B,T,3] long, a number among the 55; -1 where the mask is False or
    all weights are 0.

    Args: weights: [B,T,P]. mask: [B,T] bool. boxes: [B,55,4]. level: [55]. grid: (h, w) of P.
    """
    cells = box_cells(boxes, grid).to(weights.dtype)
    mean = torch.einsum("btp,bnp->btn", weights, cells) / cells.sum(dim=-1)[:, None]
    best = [mean.masked_fill(level != n, -torch.inf).argmax(dim=-1) for n in ALIGNED]
    there = mask & (weights != 0).any(dim=-1)
    return torch.where(there[..., None], torch.stack(best, dim=-1), -1)


def token_budget(candidates: Tensor, rate: float) -> Tensor:
    """How many tokens [B] of the candidates [B,T] are hidden."""
    count = candidates.sum(dim=1)
    wanted = (rate * (count + 1).double()).round().clamp(1, MOST).long()
    return torch.minimum(wanted, count)


def choose_aligned(
    aligned: Tensor | None, candidates: Tensor, noise: Tensor, fill: Tensor, rate: float = 0.15
) -> tuple[Tensor, Tensor]:
    """AGM (sec. 3.3): which tokens [B,T] and which patches [B,55] are hidden.

    Aligned candidates come by rising noise[...,0]. A coin, noise[...,1] < .5, hides the token while
    the budget lasts; else its patches of levels 3, 4, 5 are hidden where budget is left and they
    are not yet: the token is then "shown". What is left of the budgets goes to tokens by (shown,
    noise), and at each level to patches by (aligned to a hidden token, fill).

    Args: aligned: see `aligned_patches`; None = nothing is. candidates: [B,T] bool. noise: [B,T,2].
    fill: [B,55].
    """
    rows = torch.arange(len(fill), device=fill.device)
    tokens, shown = torch.zeros_like(candidates), torch.zeros_like(candidates)
    patches = torch.zeros_like(fill, dtype=torch.bool)
    budget, order = token_budget(candidates, rate), []
    if aligned is not None:
        known = candidates & (aligned >= 0).any(dim=-1)
        order = noise[..., 0].masked_fill(~known, torch.inf).argsort(dim=1, stable=True).T
    for at in order:
        if not known.is_cuda and not known[rows, at].any():
            break  # to ask a GPU takes longer than to go on
        here, coin = known[rows, at], noise[rows, at, 1] < 0.5
        tokens[rows, at] |= here & coin & (tokens.sum(dim=1) < budget)
        for place, number in enumerate(ALIGNED):
            inside = patches[:, SLICES[number - 1]]  # a view
            patch = aligned[rows, at, place]
            free = here & ~coin & (patch >= 0) & (inside.sum(dim=1) < BUDGET[place])
            free &= ~patches[rows, patch.clamp(min=0)]
            patches[rows, patch.clamp(min=0)] |= free
            shown[rows, at] |= free
    cost = (shown + noise[..., 0]).masked_fill(tokens | ~candidates, torch.inf)
    tokens = tokens | _least(cost, budget - tokens.sum(dim=1))
    hidden = torch.zeros_like(patches)
    for place in range(len(ALIGNED) if aligned is not None else 0):
        patch = torch.where(tokens, aligned[..., place], -1)
        hidden |= (patch[:, :, None] == torch.arange(patches.shape[1], device=fill.device)).any(1)
    for place, number in enumerate(ALIGNED):
        inside, level = patches[:, SLICES[number - 1]], SLICES[number - 1]
        cost = (hidden[:, level] + fill[:, level]).masked_fill(inside, torch.inf)
        patches[:, level] |= _least(cost, BUDGET[place] - inside.sum(dim=1))
    return tokens, patches


def _least(cost: Tensor, count: Tensor) -> Tensor:
    """[B,n] bool: the `count` [B] of least finite cost [B,n], the first of equals."""
    rank = cost.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count[:, None]) & cost.isfinite()
