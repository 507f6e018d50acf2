"""What the objectives share: InfoNCE over gathered negatives, the contrast of tokens within a
pair, the learned temperature, and all-pairs similarities a few rows at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sparc_pretrain.distributed import gather, gather_own_columns, own_rows

# Numbers of a similarity tensor that are held at a time: 32 MiB in float32.
BLOCK = 2**23


P, R = ParamSpec("P"), TypeVar("R")


def without_autocast(formula: Callable[P, R]) -> Callable[P, R]:
    """A formula of tensors that is computed in the precision of its inputs (and, through `unit`, in
    at least float32), whatever autocast it is called under; encoders beside it stay in bfloat16.
    """

    @functools.wraps(formula)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            return formula(*args, **kwargs)

    return guarded


class Temperature(nn.Module):
    """One learned log-scale; calling it gives scale = 1/tau as a scalar tensor, never above `most`.

    Starts at tau = 0.07 as in CLIP (arXiv 2103.00020, sec. 2.5). The parameter itself is held below
    log(most), so that its gradient never dies at the bound.
    """

    def __init__(self, tau: float = 0.07, most: float = 100.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / tau)))
        self.most = most

    def forward(self) -> Tensor:
        """scale = 1/tau, scalar."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.most))
        return self.log_scale.exp()


def unit(x: Tensor) -> Tensor:
    """x [...,D] -> unit vectors in at least float32; a zero vector stays zero, without gradient."""
    return _Unit.apply(full_precision(x))


class _Unit(torch.autograd.Function):
    """x / |x|, whose gradient (g - y (g . y)) / |x| is written out: a third of the passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.where(length > 0, 1 / length, 0)
        made = x * inverse
        ctx.save_for_backward(made, inverse)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        made, inverse = ctx.saved_tensors
        along = (gradient * made).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, made, along, value=-1).mul_(inverse)


def full_precision(x: Tensor) -> Tensor:
    """Half precision -> float32; float32 and float64 stay. Losses are never summed in half
    precision.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@without_autocast
def info_nce(image: Tensor, text: Tensor, scale: Tensor | float, block: int = BLOCK) -> Tensor:
    """L_g of SPARC, eq. 1 (CLIP's loss): symmetric cross-entropy of cosines over the whole global
    batch.

        -(1/2B) sum_i [ log softmax_j(scale cos(v_i,t_j))_i + log softmax_j(scale cos(t_i,v_j))_i ]

    Args:
        image, text: [b,D] un-normalised, this rank's rows; row i belongs to row i. scale: 1/tau.
        block: larger matrices of cosines are made, and made again in the backward pass, in blocks
            of so many numbers.

    Returns:
        scalar: the mean over this rank's rows; its mean over ranks is the loss of the whole batch.
    """
    image, text = unit(image), unit(text)
    every_image, every_text = gather(image), gather(text)
    if len(image) * len(every_text) > block:
        own = scale * (image * text).sum(dim=-1)

        def log_sums(columns: Tensor, rows: Tensor) -> tuple[Tensor]:
            return ((scale * rows @ columns.T).logsumexp(dim=1)[None],)

        both = ((image, every_text), (text, every_image))
        sums = [over_columns(log_sums, *pair, block).logsumexp(dim=0) for pair in both]
        return sum((total - own).mean() for total in sums) / 2
    target = own_rows(len(image), image.device)
    image_to_text = scale * image @ every_text.T
    text_to_image = scale * text @ every_image.T
    return (F.cross_entropy(image_to_text, target) + F.cross_entropy(text_to_image, target)) / 2


def over_columns(
    part: Callable[..., tuple[Tensor]], rows: Tensor, columns: Tensor, block: int
) -> Tensor:
    """part(columns, rows) -> [1,b] for some of the columns [B,D] at a time and all rows [b,D]: a
    row of the result for each of them. No [b,B] is made or kept.
    """
    return by_rows(part, columns, rows, cells=len(rows), block=block)[0]


@without_autocast
def score_nce(image_to_text: Tensor, text_to_image: Tensor) -> Tensor:
    """Symmetric InfoNCE of pairwise scores that are no inner products (FILIP, PACL, GLoRIA).

        -(1/2B) sum_i [ log softmax_j(image_to_text_ij)_i + log softmax_j(text_to_image_ji)_i ]

    Args:
        image_to_text, text_to_image: [b,B] logits, this rank's images against the captions of all
            ranks. The columns of this rank's captions are exchanged: b*B numbers travel, and no
            patches.

    Returns:
        scalar: the mean over this rank's rows; its mean over ranks is the loss of the whole batch.
    """
    own = own_rows(len(image_to_text), image_to_text.device)
    columns = gather_own_columns(text_to_image)
    return (F.cross_entropy(image_to_text, own) + F.cross_entropy(columns.T, own)) / 2


def by_rows(
    similarity: Callable[..., tuple[Tensor, ...]],
    rows: Tensor,
    *others: Tensor,
    cells: int,
    block: int | None = BLOCK,
) -> tuple[Tensor, ...]:
    """similarity(rows, *others), a few of the rows [Bi,...] at a time, joined along dim 0.

    Exact: each block is computed again in the backward pass, and nothing inside it is kept.

    Args:
        cells: numbers that one row needs inside `similarity`. block: how many of them are held at
            a time, at least one row's; None = all rows at once, kept for the backward pass.
    """
    if block is None:
        return similarity(rows, *others)
    parts = rows.split(max(1, block // max(1, cells)))
    if torch.is_grad_enabled():
        options = dict(use_reentrant=False, preserve_rng_state=False)
        done = [checkpoint(similarity, part, *others, **options) for part in parts]
    else:
        done = [similarity(part, *others) for part in parts]
    return tuple(torch.cat(column) for column in zip(*done, strict=True))


def normaliser(mask: Tensor, reduction: str = "caption") -> Tensor:
    """What the summed token losses of mask [B,T] are divided by: captions (eq. 6) or real tokens
    (Listing 1).
    """
    if reduction == "caption":
        return mask.new_tensor(mask.shape[0], dtype=torch.float32)
    if reduction == "token":
        return mask.sum().float().clamp(min=1)
    raise ValueError(f"reduction {reduction!r}: use 'caption' or 'token'")


def twins(ids: Tensor) -> Tensor:
    """[B,T,T] bool: two places of one caption ids [B,T] that hold the same token."""
    other = ~torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
    return (ids[:, :, None] == ids[:, None, :]) & other


@without_autocast
def token_contrast(
    grouped: Tensor,
    tokens: Tensor,
    mask: Tensor,
    scale: Tensor | float,
    reduction: str = "caption",
    divisor: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """Eq. 6 of SPARC: each token against the grouped embeddings of its own caption and the other
    way round, by cosine.

        -(1/2) (1/L_i) sum_j [ log softmax_k(scale cos(c_j,t_k))_j + log softmax_k(scale
        cos(t_j,c_k))_j ], k over real tokens

    Args:
        grouped, tokens: [B,T,D] un-normalised. mask: [B,T], True = takes part; padding is
            neither query nor key.
        reduction: 'caption' = mean over a caption's tokens, then over the batch; 'token' = mean
            over all real tokens.
        divisor: what to divide the sum by, when this is a part of a larger batch; None =
            `normaliser(mask)`.
        ignored: [B,T,T] bool, symmetric: pairs of tokens that are no negatives of each other.

    Returns:
        scalar.
    """
    cosine_BTT = torch.einsum("bjd,bkd->bjk", unit(grouped), unit(tokens))
    logits_BTT = scale * cosine_BTT
    # A padded query may see every key: its loss is dropped below, and no row is ever all -inf
    # (NaN).
    seen_BTT = mask[:, None, :] | ~mask[:, :, None]
    if ignored is not None:
        seen_BTT = seen_BTT & ~ignored
    loss_BT = 0.0
    for logits in (logits_BTT, logits_BTT.transpose(1, 2)):
        log_share = logits.masked_fill(~seen_BTT, -torch.inf).log_softmax(dim=-1)
        loss_BT = loss_BT - torch.where(mask, log_share.diagonal(dim1=1, dim2=2), 0) / 2
    if reduction == "caption":
        loss_BT = loss_BT / mask.sum(dim=1, keepdim=True).clamp(min=1)
    divisor = normaliser(mask, reduction) if divisor is None else divisor
    return loss_BT.sum() / divisor
