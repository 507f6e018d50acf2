"""Tokens gather patches (SPARC, eqs. 2-5), and what is made of it: the image contrast, and what the
log says of the weights.

Suffixes: B samples, T tokens, P patches, D shared width, K other images of a caption; N groups of
    G captions and J images, whose L tokens are one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparc_pretrain.objectives.chunked import GroupDirection
from sparc_pretrain.objectives.contrastive import (
    full_precision,
    normaliser,
    unit,
    without_autocast,
)

# A row of similarities whose max - min is not above this has no preference: its weights are zero.
FLAT_ROW = 1e-6


@without_autocast
def group_patches(
    tokens: Tensor,
    patches: Tensor,
    threshold: float | None = None,
    alignment: str = "sparse",
    detach: bool = False,
) -> tuple[Tensor, Tensor]:
    """Eqs. 2-5: each token gathers the patches it resembles.

        s_lp = t_l . v_p;  min-max over patches;  zero below `threshold`;  renormalise to sum 1;
        c_l = sum_p a_lp v_p

    Args:
        tokens: [B,T,D]. patches: [B,P,D]; neither is normalised before the inner product.
        threshold: sigma; None = 1/P as in the paper, 0 = no sparsity.
        alignment: 'sparse' (the paper's) or 'softmax' over patches of s (its ablation, Table 8).
        detach: no gradient through the weights.

    Returns:
        grouped [B,T,D] and weights [B,T,P]. A row that gathers nothing (constant, with a
        range <= 1e-6, also P = 1; or sigma above 1) has weights and grouped vector 0 and passes
        no gradient; every other row sums to 1.

    Raises:
        ValueError: an unknown alignment.
    """
    tokens, patches = full_precision(tokens), full_precision(patches)
    score_BTP = torch.einsum("btd,bpd->btp", tokens, patches)
    if alignment == "softmax":
        weight_BTP = score_BTP.softmax(dim=-1)
    elif alignment == "sparse":
        sigma = 1 / patches.shape[1] if threshold is None else threshold
        low, high = score_BTP.aminmax(dim=-1, keepdim=True)
        spread = high - low
        alive = spread > FLAT_ROW
        shifted = torch.where(alive, score_BTP - low, 0) / torch.where(alive, spread, 1)
        kept = torch.where(shifted >= sigma, shifted, 0)
        weight_BTP = sum_to_one(kept)
    else:
        raise ValueError(f"alignment {alignment!r}: use 'sparse' or 'softmax'")
    if detach:
        weight_BTP = weight_BTP.detach()
    return torch.einsum("btp,bpd->btd", weight_BTP, patches), weight_BTP


@without_autocast
def group_direction(
    tokens: Tensor,
    patches: Tensor,
    threshold: float | None = None,
    alignment: str = "sparse",
    detach: bool = False,
) -> tuple[Tensor, Tensor]:
    """`group_patches` up to the length of what is grouped, which a cosine does not see: [B,T,D], by
    `GroupDirection` where the formula allows, and the weights [B,T,P] up to their sum, without
    gradient.
    """
    if detach or alignment != "sparse":
        grouped, weight_BTP = group_patches(tokens, patches, threshold, alignment, detach)
        return grouped, weight_BTP.detach()
    tokens, patches = full_precision(tokens), full_precision(patches)
    sigma = 1 / patches.shape[1] if threshold is None else threshold
    return GroupDirection.apply(tokens, patches, sigma, FLAT_ROW)


def sum_to_one(weights: Tensor) -> Tensor:
    """Rows [...,P] divided by their sum; of zeros zeros."""
    total = weights.sum(dim=-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def neighbours(
    count: int, negatives: int, device: torch.device | None = None
) -> tuple[int, Tensor]:
    """The images that each of `count` captions is held against: its own, then K others.

    Fixed groups of neighbouring places, of the smallest power of two above K; a caption's others
    are those 1 to K places further in its group, round and round. The groups are the same however
    a batch is cut, as long as each part holds whole ones.

    Returns:
        the size of a group, and places [K+1,B] long.

    Raises:
        ValueError: `negatives` below 1, or parts of groups.
    """
    if negatives < 1:
        raise ValueError(f"image_negatives={negatives}: at least 1")
    size = 1 << negatives.bit_length()
    if count % size:
        raise ValueError(
            f"image_negatives={negatives} holds captions against groups of {size} neighbouring "
            f"images, and a process or micro-batch of {count} pairs is no multiple of {size}: "
            "choose data.global_batch, --accumulate or image_negatives so that it is"
        )
    place_B = torch.arange(count, device=device)
    first_B = place_B - place_B % size
    return size, torch.stack([first_B + (place_B + k) % size for k in range(negatives + 1)])


@without_autocast
def image_contrast(
    patches: Tensor,
    tokens: Tensor,
    mask: Tensor,
    scale: Tensor | float,
    negatives: int = 1,
    refused: Tensor | None = None,
    threshold: float | None = None,
    alignment: str = "sparse",
    detach: bool = False,
    reduction: str = "caption",
    divisor: Tensor | None = None,
    contrast_of: str = "tokens",
) -> tuple[Tensor, Tensor]:
    """L_ic, ours and not the paper's: what a token gathers in its own image, against what it
    gathers in K other images.

        s_il(j) = scale cos(c_il(j), t_il); c_il(j) = what token l of caption i gathers in image j
        of tokens:   L_ic = -(1/B) sum_i (1/L_i) sum_l log softmax_j(s_il(j))_i
        of captions: L_ic = -(1/2B) sum_i [log softmax_j(S_i(j))_i + log softmax_j(S_j(i))_i],
                     S_i(j) the mean over l of s_il(j), as FILIP contrasts (arXiv 2111.07783)
        j over i and K `neighbours`

    Eq. 6 contrasts tokens of one caption, and is solved without the image: token identity is
    written into weights over patches that differ by position. Here that gives log(K+1): only what
    the image shows lowers the loss. Linear in the batch, and nothing is gathered over processes.

    Args:
        patches: [B,P,D]. tokens: [B,T,D], contextual or free of context. mask: [B,T], True = real.
        negatives: K. refused: [K,B] bool, others that are no negatives: the same image again, or
            an equal caption's.
        threshold, alignment, detach: see `group_patches`.
        reduction, divisor: see `contrastive.token_contrast`; of captions it is always 'caption'.
        contrast_of: what is held against images: each of the 'tokens', or 'captions', which are
            held against each other in an image as well; words that tell nothing then need not.

    Returns:
        scalar, and the weights [B,T,P] in the own image.
    """
    size, place_KB = neighbours(len(patches), negatives, patches.device)
    # all captions of a group in each of its images, J, as one long caption: larger products
    texts_NGTD = tokens.unflatten(0, (-1, size))
    long_NJLD = texts_NGTD.flatten(1, 2)[:, None].expand(-1, size, -1, -1)
    grouped, weights = group_direction(
        long_NJLD.flatten(0, 1), patches, threshold, alignment, detach
    )
    grouped, weights = (
        x.unflatten(1, (size, -1)).unflatten(0, (-1, size)) for x in (grouped, weights)
    )
    cosine_NJGT = (unit(grouped) * unit(texts_NGTD)[:, None]).sum(dim=-1)
    seen_KG = place_KB[:, :size]
    own = sum_to_one(weights[:, seen_KG[0], seen_KG[0]].flatten(0, 1))
    logits_KBT = scale * cosine_NJGT[:, seen_KG, seen_KG[0]].transpose(0, 1).flatten(1, 2)
    if contrast_of == "captions":
        divisor = normaliser(mask) if divisor is None else divisor
        return _both_ways(logits_KBT, mask, refused) / divisor, own
    if refused is not None:
        others = logits_KBT[1:].masked_fill(refused[:, :, None], -torch.inf)
        logits_KBT = torch.cat([logits_KBT[:1], others])
    loss_BT = torch.where(mask, -logits_KBT.log_softmax(dim=0)[0], 0)
    if reduction == "caption":
        loss_BT = loss_BT / mask.sum(dim=1, keepdim=True).clamp(min=1)
    divisor = normaliser(mask, reduction) if divisor is None else divisor
    return loss_BT.sum() / divisor, own


def _both_ways(logits: Tensor, mask: Tensor, refused: Tensor | None) -> Tensor:
    """The sum over pairs of the mean InfoNCE of captions and of images: a scalar.

    Args: logits: [K+1,B,T], of caption i's tokens in its k-th image. mask: [B,T] bool. refused:
    [K,B] bool.
    """
    logits_KB = torch.where(mask, logits, 0).sum(dim=-1) / mask.sum(dim=1).clamp(min=1)
    if refused is not None:
        others = logits_KB[1:].masked_fill(refused, -torch.inf)
        logits_KB = torch.cat([logits_KB[:1], others])
    # image j is the k-th of the caption k places before it, round and round its group
    K, B = logits_KB.shape
    size, place_KB = neighbours(B, K - 1, logits.device)
    behind_KB = place_KB[0] - place_KB[0] % size + (2 * place_KB[0] - place_KB) % size
    asked_KB = logits_KB.gather(1, behind_KB)
    return -(logits_KB.log_softmax(dim=0)[0] + asked_KB.log_softmax(dim=0)[0]).sum() / 2


def equal_pairs(keys: list[str], ids: Tensor, mask: Tensor, negatives: int) -> Tensor:
    """[K,B] bool: the K others of `neighbours` that show the caption's own image (an equal key), or
    whose caption is the same.

    Args: keys: of the samples, B. ids, mask: [B,T].
    """
    _, place_KB = neighbours(len(keys), negatives, ids.device)
    number = {key: n for n, key in enumerate(keys)}
    image_B = torch.tensor([number[key] for key in keys])
    image_B = image_B.to(ids.device, non_blocking=True)  # does not wait for earlier work
    said = torch.where(mask, ids, -1)
    same_text = (said[place_KB[1:]] == said).all(dim=-1)
    return same_text | (image_B[place_KB[1:]] == image_B)


@torch.no_grad()
def alignment_sums(weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """For the log, summed over the real tokens of weights [B,T,P]: the share of patches kept (0 to
    1) and the entropy of the alignment weights (nats; log P = uniform).
    """
    weights = weights.float()
    kept = weights.count_nonzero(dim=-1) / weights.shape[-1]
    # special.entr takes three times as long
    entropy = -(weights * weights.clamp(min=torch.finfo(torch.float32).tiny).log()).sum(dim=-1)
    return (kept * mask).sum(), (entropy * mask).sum()
