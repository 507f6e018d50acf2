"""Retrieval in two steps: all pairs by a cheap score, each query's best by a dear one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.types import ImageFeatures, TextFeatures
from sparc_pretrain.zeroshot import encode
from sparc_pretrain.zeroshot.given_boxes import joined
from sparc_pretrain.zeroshot.pace import Pace

Match = Callable[[Tensor, Tensor], Tensor]


BY = ("match", "both")


def rerank(
    scores: Tensor, match: Match, k: int, scale: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Scores whose order is that of two steps: (image to text, text to image), [I,T] each.

    Of every query the k best by `scores` (the first of equals) come first, ordered by
    `match + scale * scores`, the rest below them in their order.

    Args:
        scores: [I,T], higher is closer. match: (images [n] long, texts [n] long) -> [n]; it is
            called once, with every pair that one of the directions needs. scale: 0 as released;
            see `scale_of`.

    Raises ValueError for a k below 1.
    """
    if k < 1:
        raise ValueError(f"re-ranking the best {k} of a query: at least 1")
    by_row, by_column = _best(scores, k), _best(scores.T, k).T
    images, texts = (by_row | by_column).nonzero(as_tuple=True)
    again = torch.full_like(scores, -torch.inf)
    again[images, texts] = match(images, texts).to(scores) + scale * scores[images, texts]
    return _placed(scores, again, by_row), _placed(scores, again, by_column)


@torch.no_grad()
def scale_of(objective: Objective, by: str) -> float:
    """The weight of the contrast's cosine beside the log-odds of `match`.

    By 'match' 0, as X-VLM, ALBEF and their kin are released. By 'both' ours, 1/tau of the contrast:
    negatives of the matching are drawn with weights softmax(cosine / tau), so that what its
    log-odds approach is the log of p(text | image) over those weights; the weights have to be given
    back. (BLIP adds the cosine itself.)

    Raises ValueError for another word.
    """
    if by not in BY:
        raise ValueError(f"re-ranking by {by!r}: use one of {', '.join(BY)}")
    return objective.temperature().item() if by == "both" else 0.0


def _best(scores: Tensor, k: int) -> Tensor:
    """Which k of each row are its best, [I,T] bool; of equals the first."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, order, True)


def _placed(scores: Tensor, again: Tensor, best: Tensor) -> Tensor:
    """`again` of the best above `scores` of the rest: both kept in order, ties included."""
    lift = scores.max() + 1 - again[best].min() if best.any() else 0
    return torch.where(best, again + lift, scores)


@torch.no_grad()
def matcher(
    model: DualEncoder,
    objective: Objective,
    data: encode.CaptionedImages,
    resize: str = "crop",
    batch_size: int = 64,
) -> Match:
    """`objective.match` of an evaluation set's images and captions, whose states are kept in half
    precision off the GPU.

    Raises ValueError for an objective that has none.
    """
    if objective.match is None:
        name = type(objective).__name__
        raise ValueError(f"--rerank needs a run that matches pairs (X-VLM): {name} does not")
    device = model.mean.device
    kept = ("patch_states",)
    how = (resize, batch_size, objective, data.boxes)
    shown = list(encode.encode_images(model, data.files, kept, *how))
    regions = joined([part.regions for part in shown]) if data.boxes is not None else None
    states = torch.cat([part.patch_states.half().cpu() for part in shown])
    said = encode.encode_texts(model, data.captions, ("token_states",), batch_size * 4)
    longest = max(part.mask.shape[1] for part in said)
    tokens, masks = (
        torch.cat([_padded(getattr(part, name), longest).cpu() for part in said])
        for name in ("token_states", "mask")
    )

    @torch.no_grad()
    def match(images: Tensor, texts: Tensor) -> Tensor:
        pace = Pace(len(images))
        found = []
        pairs = zip(images.split(batch_size * 4), texts.split(batch_size * 4), strict=True)
        for i, t in tqdm(list(pairs), desc="pairs", unit="batch", disable=None):
            given = None if regions is None else regions.rows(i).to(device)
            seen = states[i].to(device, model.mean.dtype)
            image = ImageFeatures(None, None, seen, regions=given)
            text = TextFeatures(None, None, masks[t].to(device), None, tokens[t].to(device))
            found.append(objective.match(image, text).float().cpu())
            pace.count(len(i))
        return torch.cat(found)

    return match


def _padded(x: Tensor, length: int) -> Tensor:
    """x [B,T,...] with zeros, or False, up to T = length."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + (0, length - x.shape[1]))
