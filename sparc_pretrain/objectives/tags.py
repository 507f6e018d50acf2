"""How captions and tags become one text (Oscar).

Suffixes: B images, n pairs, T tokens of a caption, Q of tags, N of both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.types import Regions


def join(
    ids: Tensor, mask: Tensor, tags: Tensor, tag_mask: Tensor, most: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Captions [B,T] and tags [B,Q], one behind the other without a gap -> (ids, mask, segment)
    [B,N]; segment 0 = caption, 1 = tags; padding is 0. N is the longest, for which a GPU is waited
    for, or what all are known to have at `most`, or T + Q if that is less.
    """
    real = torch.cat([mask, tag_mask], dim=1)
    most = int(real.sum(dim=1).max()) if most is None else most
    order = (~real).byte().argsort(dim=1, stable=True)[:, :most]
    both = torch.cat([ids, tags], dim=1).gather(1, order)
    segment = torch.cat([torch.zeros_like(ids), torch.ones_like(tags)], dim=1).gather(1, order)
    real = real.gather(1, order)
    return both * real, real, segment * real


def fitting(caption: Tensor, tags: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Lengths [B] of captions and tags that are `most` together: the longer one is cut first, of
    equal ones the tags (BERT's way).
    """
    half = most // 2
    of_caption = torch.where(tags <= half, most - tags, most - half)
    of_tags = torch.where(caption <= half, most - caption, half)
    return torch.minimum(caption, of_caption), torch.minimum(tags, of_tags)


def cut(ids: Tensor, mask: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Texts [B,T] cut to `length` [B], the last token stays."""
    last = (mask.sum(dim=1) - 1).clamp(min=0)
    place = torch.arange(ids.shape[1], device=ids.device)
    at_end = place == length[:, None] - 1
    ids = torch.where(at_end, ids.gather(1, last[:, None]), ids)
    return ids, mask & (place < length[:, None])


def tagged(states: Tensor, mask: Tensor, regions: Regions) -> tuple[Tensor, Tensor, Tensor]:
    """Captions [n,T] and the tags of their regions behind them, as `join`, as states [n,N,Dt]; tags
    lose what is too long.
    """
    tags = regions.tags
    room = tags.longest - mask.sum(dim=1, keepdim=True)
    kept = tags.mask & (torch.arange(tags.ids.shape[1], device=room.device) < room)
    ids, real, segment = join(torch.zeros_like(mask, dtype=torch.long), mask, tags.ids, kept)
    behind = tags.tower(ids, real).to(states.dtype)
    states = F.pad(states[:, : ids.shape[1]], (0, 0, 0, max(0, ids.shape[1] - states.shape[1])))
    return torch.where((segment == 1)[..., None], behind, states), real, segment


def at_the_end(regions: Regions) -> tuple[Tensor, Tensor]:
    """Tags in the last places that their tower has, whatever stands before them: states [B,Q,Dt]
    and which are real. Of captions that are still being written the end is not known.
    """
    tags = regions.tags
    ids, mask = (x[:, : tags.longest] for x in (tags.ids, tags.mask))
    lead = tags.longest - ids.shape[1]
    states = tags.tower(*(F.pad(x, (lead, 0)) for x in (ids, mask)))
    return states[:, lead:], mask
