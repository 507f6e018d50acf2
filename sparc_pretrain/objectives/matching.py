"""Image-text matching: which pairs may be negatives, which of them are drawn, and the loss.

Suffixes: n own rows, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.objectives.contrastive import full_precision, unit, without_autocast

IGNORED = -100  # a label that cross-entropy leaves out


def strangers(
    image: Tensor,
    other_image: Tensor,
    group: Tensor | None = None,
    other_group: Tensor | None = None,
) -> Tensor:
    """Which pairs are certainly no match [n,N] bool: their images differ, and their groups (texts)
    where these are given. All: [n] and [N] long.
    """
    differ = image[:, None] != other_image[None, :]
    return differ if group is None else differ & (group[:, None] != other_group[None, :])


def nested(
    ids: Tensor, words: Tensor, other_ids: Tensor, other_words: Tensor, buckets: int
) -> Tensor:
    """Whether all words of one text are among those of the other [n,N] bool: what says "a house" is
    true of "a blue house", and may be so the other way round.

    Args:
        ids, words: [n,T] long and bool, which tokens count; other_ids, other_words: [N,T]. buckets:
            ids are compared modulo this, so that no table of a whole vocabulary is held.
    """

    def bag(ids: Tensor, words: Tensor) -> Tensor:
        found = torch.zeros(len(ids), buckets, device=ids.device)
        return found.scatter_add_(1, ids % buckets, words.float()).clamp_(max=1)

    one, other = bag(ids, words), bag(other_ids, other_words)
    common = one @ other.T
    return (common == one.sum(dim=1)[:, None]) | (common == other.sum(dim=1)[None, :])


@torch.no_grad()
def draw_negatives(logits: Tensor, allowed: Tensor, noise: Tensor, floor: float = 1e-5) -> Tensor:
    """One hard negative per row (ALBEF, arXiv 2107.07651): drawn with weights softmax(row) + floor
    over all N candidates, of which only the allowed ones are kept.

    The draw is the exponential race, argmax of log weight + Gumbel noise: exactly multinomial, and
    the same for any order of the candidates when `noise` belongs to the pairs.

    Args: logits, noise: [n,N]. allowed: [n,N] bool.

    Returns:
        [n] long, -1 where nothing is allowed.
    """
    if not logits.shape[1]:
        return logits.new_full(logits.shape[:1], -1, dtype=torch.long)
    weight = (logits.double().softmax(dim=1) + floor).log()
    race = (weight - (-noise.double().log()).log()).masked_fill(~allowed, -torch.inf)
    return torch.where(allowed.any(dim=1), race.argmax(dim=1), -1)


class Pairs(NamedTuple):
    """Pairs to be judged: text [n] and concept [n] are rows of all concepts; the image and the box
    seen are those of `concept`. match: [n] bool; there: [n] bool, those that take part.
    """

    text: Tensor
    concept: Tensor
    match: Tensor
    there: Tensor


@without_autocast
def hard_pairs(
    sides: Sequence[Tensor],
    others: Sequence[Tensor],
    scale: Tensor,
    valid: Tensor,
    allowed: Tensor,
    noise: Sequence[Tensor],
    own: Tensor,
    here: Tensor,
) -> Pairs:
    """The concepts of `here`, each with itself, its image with a hard text, its text with a hard
    image; one without a candidate takes no part: matches alone would teach to say yes.

    Args:
        sides: vectors of the own images and of the own texts, [n,D] each. others: of all, [N,D]
            each. scale: 1/tau. valid: [N] bool. allowed: [n,N] bool, see `strangers`. noise: [n,N]
            for texts and for images. own: [n] long, where the own rows stand among all. here: [m]
            long, which of the own rows take part.
    """
    image, text = (unit(one) for one in sides)
    images, texts = (unit(one) for one in others)
    scores = (scale * image @ texts.T, scale * text @ images.T)
    scores = [one.masked_fill(~valid, -torch.inf) for one in scores]
    text, image = (draw_negatives(s, allowed, u) for s, u in zip(scores, noise, strict=True))
    own, text, image = own[here], text[here], image[here]
    there = (text >= 0).repeat(3)  # then an image is allowed, too
    text, image = (torch.where(one >= 0, one, own) for one in (text, image))
    texts, concepts = torch.cat([own, text, own]), torch.cat([own, own, image])
    return Pairs(texts, concepts, texts == concepts, there)


@without_autocast
def matching_loss(
    logits: Tensor,
    match: Tensor,
    valid: Tensor | None = None,
    divisor: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy of two classes, 1 = match, of the valid rows over `divisor` (None: their
    number, at least 1) -> scalar. logits: [n,2]; match, valid: [n] bool.
    """
    wanted = match.long() if valid is None else match.long().masked_fill(~valid, IGNORED)
    loss = F.cross_entropy(full_precision(logits), wanted, reduction="sum")
    if divisor is None:
        divisor = max(1, len(match)) if valid is None else valid.sum().clamp(min=1)
    return loss / divisor
