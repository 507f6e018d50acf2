"""The local terms without what the formula, written line by line, keeps: the gradient of a grouping
written out, and sums over pairs made a few pairs at a time, gradients and all.

Suffixes: B samples, T tokens, P patches, D shared width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Numbers of a [pairs,T,P+D] array that are made at a time: on a CPU they stay in its caches.
CELLS, CELLS_ON_GPU = 2**19, 2**26


class GroupDirection(torch.autograd.Function):
    """tokens [B,T,D], patches [B,P,D], sigma, flat -> sum_p u_lp v_p [B,T,D] and u [B,T,P], with
    u = (s - min s) where (s - min s) >= sigma (max s - min s), else 0.

    The direction of what SPARC's eqs. 2-5 group: min-max and renormalisation divide a row by
    numbers that a cosine does not see. So no gradient passes through max s or the sum, only through
    s and min s. u has none. Rows with a range <= flat are 0.
    """

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, patches: Tensor, sigma: float, flat: float
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        score = torch.bmm(tokens, patches.transpose(1, 2))
        low, place = score.min(dim=-1, keepdim=True)
        spread = score.amax(dim=-1, keepdim=True) - low
        shifted = score.sub_(low)
        # in the formula's order: (s - min) / (max - min) >= sigma, which rounds as it does there
        kept = (shifted / spread >= sigma) & (spread > flat)
        shifted = torch.where(kept, shifted, 0)
        ctx.save_for_backward(tokens, patches, shifted, place)
        ctx.mark_non_differentiable(shifted)
        return torch.bmm(shifted, patches), shifted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """d s = (d c . v) where u > 0, and minus its sum where s is least."""
        tokens, patches, shifted, place = ctx.saved_tensors
        score = torch.bmm(gradient, patches.transpose(1, 2)).mul_(shifted > 0)
        score.scatter_add_(-1, place, -score.sum(dim=-1, keepdim=True))
        to_patches = torch.bmm(score.transpose(1, 2), tokens)
        to_patches.baddbmm_(shifted.transpose(1, 2), gradient)
        return torch.bmm(score, patches), to_patches, None, None


def pairs_at_a_time(tokens: Tensor, patches: Tensor, group: int = 1) -> int:
    """How many pairs of tokens [B,T,D] and patches [B,P,D] are worked on together: a power of two,
    at least `group`, the number of neighbours whose texts and images all meet.
    """
    most = CELLS_ON_GPU if tokens.is_cuda else CELLS
    pairs = max(1, most // (group * tokens.shape[1] * (patches.shape[1] + tokens.shape[2])))
    return max(group, 1 << (pairs.bit_length() - 1))


def longest(mask: Tensor) -> int:
    """How many columns of mask [B,T] hold a real token, or what precedes one: what follows is not
    worth computing. On a GPU T: the answer would have to be waited for.
    """
    if mask.is_cuda:
        return mask.shape[1]
    return max([1, *(mask.any(dim=0).nonzero().flatten() + 1).tolist()])


def sum_over_pairs(
    term: Callable[..., tuple[Tensor, ...]],
    images: Sequence[Tensor],
    texts: Sequence[Tensor],
    shared: Sequence[Tensor],
    pairs: int,
) -> tuple[Tensor, ...]:
    """The sums of what `term` returns for parts of a batch, in memory that does not grow with it.

    Args:
        term: term(*parts of images and texts, *shared) -> scalars, the first a loss; the others
            are logged and get no gradient.
        images: [B,...], cut along dim 0 into parts of `pairs`. texts: [B,T,...], the first of them
            the mask, cut as well to the `longest` caption of a part. shared: whole for each part.

    Returns:
        the summed scalars. The loss's gradients are made along with it, part by part, and only
        scaled in the backward pass, which can be run once.
    """
    counts = len(images), len(images) + len(texts), pairs, torch.is_grad_enabled()
    # the parts' backward passes run here: nor they may be in half precision
    with torch.autocast(images[0].device.type, enabled=False):
        return _SumOverPairs.apply(term, counts, *images, *texts, *shared)


class _SumOverPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Callable, counts: tuple[int, ...], *tensors: Tensor) -> Any:
        of_images, of_rows, pairs, learning = counts
        wanted = [i for i, x in enumerate(tensors) if learning and x.requires_grad]
        grads = {i: torch.zeros_like(tensors[i]) for i in wanted}
        sums: list[Tensor] = []
        for start in range(0, len(tensors[0]), pairs):
            rows = slice(start, start + pairs)
            text = rows, slice(longest(tensors[of_images][rows]))
            places = [rows] * of_images + [text] * (of_rows - of_images)
            places += [...] * (len(tensors) - of_rows)
            part = [x[place].detach() for x, place in zip(tensors, places, strict=True)]
            leaves = [part[i].requires_grad_() for i in wanted]
            with torch.set_grad_enabled(bool(wanted)):
                values = term(*part)
            if values[0].requires_grad:
                found = torch.autograd.grad(values[0], leaves, allow_unused=True)
                for i, grad in zip(wanted, found, strict=True):
                    if grad is not None:
                        grads[i][places[i]] += grad
            values = [value.detach() for value in values]
            sums = [a + b for a, b in zip(sums, values, strict=True)] if sums else values
        ctx.save_for_backward(*grads.values())
        ctx.wanted, ctx.count, ctx.spent = wanted, len(tensors), False
        ctx.mark_non_differentiable(*sums[1:])
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        if ctx.spent:  # they were scaled where they lie
            raise RuntimeError("the backward pass of a local loss was run a second time")
        ctx.spent = True
        found: list[Tensor | None] = [None] * ctx.count
        for i, grad in zip(ctx.wanted, ctx.saved_tensors, strict=True):
            found[i] = grad.mul_(gradient)
        return (None, None, *found)
