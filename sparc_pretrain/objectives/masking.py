"""Masked language modelling: which tokens are hidden, what stands in their place, and the loss.

Suffixes: B texts, T tokens, M masked tokens, V vocabulary. Random numbers are arguments, uniform in
(0,1): see `chance`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain import chance
from sparc_pretrain.objectives.contrastive import full_precision, without_autocast

MASKS = ("budget", "independent")
MASKED, REPLACED = 0.8, 0.9  # BERT's shares (arXiv 1810.04805): 80 % masked, 10 % replaced


def choose_independently(
    candidates: Tensor,
    noise: Tensor,
    rate: float,
    at_least_one: bool = True,
    word: Tensor | None = None,
) -> Tensor:
    """Each candidate with probability `rate` (BERT, UNITER).

    Args:
        candidates: [B,T] bool. noise: [B,T]. at_least_one: where none is below the rate, the one
            of least noise. word: [B,T] long, the word of each token, below 0 for none: the noise of
            a word's first candidate then decides for all of it.

    Returns:
        [B,T] bool; nothing in a row without candidates.
    """
    if word is not None:
        noise = noise.gather(1, _first_of_word(candidates, word))
    noise = noise.masked_fill(~candidates, torch.inf)
    chosen = noise < rate
    if at_least_one:
        least = noise == noise.amin(dim=1, keepdim=True)
        if word is None:  # of equal ones the first
            least &= least.cumsum(dim=1) == 1
        chosen |= least & candidates & ~chosen.any(dim=1, keepdim=True)
    return chosen


def _first_of_word(candidates: Tensor, word: Tensor) -> Tensor:
    """[B,T] long: the first candidate of the word that a token belongs to."""
    place = torch.arange(word.shape[1], device=word.device)
    together = (word[:, :, None] == word[:, None, :]) & (word >= 0)[:, :, None]
    together = (together & candidates[:, None, :]) | (place[:, None] == place)
    return together.to(torch.uint8).argmax(dim=2)


def choose_by_budget(
    candidates: Tensor,
    word: Tensor,
    noise: Tensor,
    rate: float = 0.25,
    most: int = 8,
    ngram: float = 0.2,
) -> Tensor:
    """X-VLM's choice: a fixed number of tokens, whole words, sometimes two or three in a row.

    n = min(most, max(1, round half to even of rate (candidates + 1))). Candidates are visited by
    rising noise[...,0] until n are chosen; one that is not chosen yet takes a span of 1 token, of 2
    when noise[...,1] < ngram/2, of 3 when < ngram, widened at both ends to whole words and cut
    before the first place that is no candidate. When that is too many, the n of least noise[...,2]
    stay.

    Args: candidates: [B,T] bool. word: [B,T] long, below 0 for none. noise: [B,T,3].

    Returns:
        [B,T] bool.
    """
    length = candidates.shape[1]
    budget = (rate * (candidates.sum(dim=1) + 1).double()).round().clamp(1, most)
    begin, end = _word_bounds(word)
    place = torch.arange(length, device=word.device)
    more = torch.where(noise[..., 1] < ngram / 2, 1, torch.where(noise[..., 1] < ngram, 2, 0))
    last = end.gather(1, (place + more).clamp(max=length - 1))
    # the first place from a span's begin on that is no candidate
    stop = torch.where(candidates, length, place).flip(1).cummin(dim=1).values.flip(1)
    chosen, waiting = torch.zeros_like(candidates), candidates.clone()
    for _ in range(length):
        active = (chosen.sum(dim=1) < budget) & waiting.any(dim=1)
        if not active.is_cuda and not active.any():  # to ask a GPU takes longer than to go on
            break
        at = noise[..., 0].masked_fill(~waiting, torch.inf).argmin(dim=1, keepdim=True)
        first = begin.gather(1, at)
        until = torch.minimum(last.gather(1, at), stop.gather(1, first))
        taken = (place >= first) & (place < until) & active[:, None]
        chosen |= taken
        waiting = waiting & ~taken & (place != at)
    rank = noise[..., 2].masked_fill(~chosen, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return chosen & (rank < budget[:, None])


def _word_bounds(word: Tensor) -> tuple[Tensor, Tensor]:
    """Begin and end (exclusive) [B,T] of the run of one word in which a token stands."""
    place = torch.arange(word.shape[1], device=word.device).expand_as(word)
    goes_on = (word[:, 1:] == word[:, :-1]) & (word[:, 1:] >= 0)
    edge = torch.ones_like(word[:, :1], dtype=torch.bool)
    starts = torch.cat([edge, ~goes_on], dim=1)
    ends = torch.cat([~goes_on, edge], dim=1)
    begin = torch.where(starts, place, 0).cummax(dim=1).values
    end = torch.where(ends, place + 1, word.shape[1]).flip(1).cummin(dim=1).values.flip(1)
    return begin, end


def corrupt(
    ids: Tensor, chosen: Tensor, noise: Tensor, mask_id: int, low: int, high: int
) -> Tensor:
    """ids [B,T] with the chosen ones masked (80 %), replaced by an id in low..high-1 (10 %), or
    kept. noise: [B,T,2].
    """
    replacement = low + (noise[..., 1] * (high - low)).floor().to(ids.dtype)
    other = torch.where(noise[..., 0] < REPLACED, replacement, ids)
    return torch.where(chosen, torch.where(noise[..., 0] < MASKED, mask_id, other), ids)


def hide_words(
    ids: Tensor,
    word: Tensor,
    candidates: Tensor,
    key: Tensor,
    moment: tuple[int, int],
    mask_id: int,
    word_ids: Sequence[int],
    kind: str = "budget",
    whole_words: bool = False,
    **options: float,
) -> tuple[Tensor, Tensor]:
    """Texts [B,T] with some of their candidates hidden, and which these are [B,T].

    Args:
        ids, word: [B,T] long. key: [B] long, of `chance`. moment: (seed, step). word_ids: (first,
            end) of the ids that may replace a word. kind: 'budget' or 'independent', with the
            options of `choose_by_budget` and `choose_independently`. whole_words: of 'independent';
            'budget' always takes whole ones.
    """
    size = ids.shape

    def noise(stream: chance.Stream, count: int) -> Tensor:
        drawn = chance.uniform(*moment, key, stream, size[1] * count)
        return drawn.unflatten(1, (size[1], count))

    drawn = noise(chance.Stream.WORD_MASK, 3)
    if kind == "budget":
        chosen = choose_by_budget(candidates, word, drawn, **options)
    else:
        words = word if whole_words else None
        chosen = choose_independently(candidates, drawn[..., 0], word=words, **options)
    replaced = noise(chance.Stream.WORD_REPLACEMENT, 2)
    return corrupt(ids, chosen, replaced, mask_id, *word_ids), chosen


@without_autocast
def masked_lm_loss(logits: Tensor, wanted: Tensor, divisor: Tensor | float | None = None) -> Tensor:
    """Cross-entropy of masked tokens, logits [M,V] against wanted [M], over `divisor` (None: M, at
    least 1) -> scalar.
    """
    loss = F.cross_entropy(full_precision(logits), wanted, reduction="sum")
    return loss / (max(1, len(wanted)) if divisor is None else divisor)
