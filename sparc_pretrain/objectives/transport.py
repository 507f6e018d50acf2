"""Optimal transport between words and regions (UNITER's word-region alignment).

Suffixes: B pairs, L words, R regions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.objectives.contrastive import full_precision, without_autocast

NEGATIVES = ("repel", "ignore")


def _inverse(x: Tensor, real: Tensor) -> Tensor:
    """1 / x where it is real and not 0, else 0."""
    there = real & (x > 0)
    return torch.where(there, 1 / torch.where(there, x, 1), 0)


@torch.no_grad()
def ipot(
    cost: Tensor,
    text_mask: Tensor,
    region_mask: Tensor,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
) -> Tensor:
    """The transport plan [B,L,R] of a cost [B,L,R] between uniform marginals over real places, by
    inexact proximal points (IPOT, Xie et al., arXiv 1802.04307, alg. 1).

    Of the two marginals the words' is updated last, and exact (as in UNITER's released code).

    Args: text_mask: [B,L] bool; region_mask: [B,R] bool. beta: step of the proximal point. inner:
        Sinkhorn steps of each iteration.
    """
    text_mask, region_mask = text_mask.bool(), region_mask.bool()
    real = text_mask[:, :, None] & region_mask[:, None, :]
    kernel = torch.where(real, (-full_precision(cost) / beta).exp(), 0)
    words = text_mask.sum(dim=1, keepdim=True).clamp(min=1).to(kernel)
    regions = region_mask.sum(dim=1, keepdim=True).clamp(min=1).to(kernel)
    sigma = text_mask / words
    plan = real.to(kernel)
    for _ in range(iterations):
        q = kernel * plan
        for _ in range(inner):
            delta = _inverse(regions * torch.einsum("blr,bl->br", q, sigma), region_mask)
            sigma = _inverse(words * torch.einsum("blr,br->bl", q, delta), text_mask)
        plan = sigma[:, :, None] * q * delta[:, None, :]
    return plan


def word_region_cost(text: Tensor, regions: Tensor) -> Tensor:
    """1 - cosine of states [B,L,D] and [B,R,D] -> [B,L,R]; a vector of 0 has cosine 0."""
    text, regions = (F.normalize(full_precision(x), dim=-1) for x in (text, regions))
    return 1 - text @ regions.transpose(1, 2)


@without_autocast
def plan_of(text: Tensor, regions: Tensor, text_mask: Tensor, region_mask: Tensor) -> Tensor:
    """`ipot` of states of words [B,L,D] and regions [B,R,D] -> [B,L,R]."""
    return ipot(word_region_cost(text, regions), text_mask, region_mask)


@without_autocast
def transport_distance(
    text: Tensor,
    regions: Tensor,
    text_mask: Tensor,
    region_mask: Tensor,
    beta: float = 0.5,
    iterations: int = 50,
    inner: int = 1,
) -> Tensor:
    """sum T C of last-layer states of words [B,L,D] and regions [B,R,D] -> [B] (UNITER, arXiv
    1909.11740, eq. 6); no gradient through the plan T.

    Args: as of `ipot`.
    """
    cost = word_region_cost(text, regions)
    plan = ipot(cost.detach(), text_mask, region_mask, beta, iterations, inner)
    return (plan * cost).sum(dim=(1, 2))


@without_autocast
def alignment_loss(
    distance: Tensor,
    match: Tensor,
    negatives: str = "repel",
    divisor: Tensor | float | None = None,
) -> Tensor:
    """WRA of distances [B] -> scalar.

    Args: match: [B] bool. negatives: 'repel' = those of the rest are subtracted (released code),
        'ignore' = they take no part. divisor: None = B, or of 'ignore' the matches, at least 1.

    Raises ValueError for another `negatives`.
    """
    if negatives not in NEGATIVES:
        raise ValueError(f"WRA negatives {negatives!r}: use one of {NEGATIVES}")
    repel = negatives == "repel"
    sign = torch.where(match, 1.0, -1.0 if repel else 0.0).to(distance.dtype)
    if divisor is None:
        divisor = max(1, len(match) if repel else int(match.sum()))
    return (full_precision(distance) * sign).sum() / divisor
