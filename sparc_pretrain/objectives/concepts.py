"""What objectives of concepts (boxes with texts) share: their contrast, their cells, their heads.

Suffixes: n own and N all concepts, D shared width, H width of texts and fusion.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sparc_pretrain.distributed import gather, own_rows, world_size
from sparc_pretrain.objectives.contrastive import unit, without_autocast
from sparc_pretrain.towers.regions import box_cells
from sparc_pretrain.types import Concepts

SAME = ("ignore", "negative", "share")


@without_autocast
def concept_contrast(
    concept: Tensor,
    text: Tensor,
    scale: Tensor | float,
    valid: Tensor,
    group: Tensor,
    same: str = "ignore",
) -> Tensor:
    """ITC over concepts: symmetric cross-entropy over the valid ones of the global batch.

        1/(2V) sum_c [CE(s_c., c) + CE(s_.c, c)],  s = scale cos(v, t)

    Args:
        concept, text: [n,D] un-normalised, this rank's rows, equally many on every rank. valid: [n]
            bool. group: [n] long, the number of the text. same: what pairs of equal group other
            than the own are: 'ignore' = in no denominator, 'negative' (released code), 'share' =
            the target is spread over them (released fine-tuning).

    Returns:
        scalar: its mean over ranks is the loss of the whole batch; 0 without a valid concept.
    """
    if same not in SAME:
        raise ValueError(f"same {same!r}: use one of {SAME}")
    concept, text = unit(concept), unit(text)
    every_valid, every_group = gather(valid.byte()).bool(), gather(group)
    own = own_rows(len(concept), concept.device)[:, None]
    is_own = own == torch.arange(len(every_valid), device=concept.device)
    equal = group[:, None] == every_group
    kept = every_valid & (~equal | is_own) if same == "ignore" else every_valid
    kept = kept | is_own  # a row is never all -inf
    target = (equal & kept if same == "share" else is_own).to(concept.dtype)
    target = target / target.sum(dim=1, keepdim=True)
    loss_n = torch.zeros_like(concept[:, 0])
    for one, other in ((concept, text), (text, concept)):
        logits = (scale * one @ gather(other).T).masked_fill(~kept, -torch.inf)
        share = torch.where(target > 0, logits.log_softmax(dim=1), 0)
        loss_n = loss_n - (share * target).sum(dim=1) / 2
    count = every_valid.sum().clamp(min=1) / world_size()
    return torch.where(valid, loss_n, 0).sum() / count


def head(width: int, out: int) -> nn.Sequential:
    """Linear H -> 2H, norm, GELU, Linear -> out."""
    return nn.Sequential(
        nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, out)
    )


def boxed(concepts: Concepts) -> Tensor:
    """[B,K] bool: valid, and not the whole image."""
    first = torch.zeros_like(concepts.valid)
    first[:, 0] = True
    return concepts.valid & ~first


def cells_of(box: Tensor, valid: Tensor, patches: Tensor) -> Tensor:
    """The cells [B*K,P] of the boxes [B,K,4] that are valid on the grid of patches [B,P,Dv]."""
    side = math.isqrt(patches.shape[1])
    return box_cells(torch.where(valid[..., None], box, 0), (side, side)).flatten(0, 1)


def mean_of(values: Tensor, which: Tensor | None = None) -> Tensor:
    """The mean, 0 of nothing; which: bool, those that count."""
    if which is None:
        return values.float().sum() / max(1, len(values))
    return torch.where(which, values.float(), 0).sum() / which.sum().clamp(min=1)
