"""Held-out pairs with boxes for `terms`, and what is taken from them: their image, their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparc_pretrain.data.dataset import PairDataset, collate
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.dual_encoder import DualEncoder
from sparc_pretrain.objectives.base import Objective
from sparc_pretrain.objectives.regions import GREY
from sparc_pretrain.types import Batch, Regions

# field of `data.fields` <- need of the objective
NUMBERS = {"concepts": "concepts", "tags": "tags", "regions": "regions"}


def dataset_of(
    model: DualEncoder,
    objective: Objective,
    shards: str,
    numbers: dict[str, int],
    caption: str = "any",
) -> PairDataset:
    """Pairs as the objective needs them: whole images, by default a caption drawn at each visit.

    Args: numbers: at most so many concepts, tags and regions. Raises as PairDataset.
    """
    needs = type(objective).needs_of(model.objective_config)
    fields: dict[str, Any] = {k: numbers[k] for k, need in NUMBERS.items() if need in needs}
    fields |= dict(crop="none", saliency="saliency" in needs)
    if "label" in needs:
        fields["labels"] = model.objective_config["labels"]
    size = dict(image_size=model.vision.img_size, max_tokens=model.text.max_tokens)
    return PairDataset(shards, model.tokenizer, **size, train=True, fields=fields, caption=caption)


def batches(data: PairDataset, size: int, visit: int) -> list[Batch]:
    """The whole batches of `size` pairs, in stored order; images as uint8.

    Raises ValueError when there is not one.
    """
    count = len(data) // size
    if not count:
        raise ValueError(f"{len(data)} pairs are fewer than one batch of {size}")
    rows = [range(n * size, (n + 1) * size) for n in range(count)]
    return [collate([data[(index, visit)] for index in own]) for own in rows]


def elsewhere(batch: Batch) -> Batch:
    """The same texts, each with the image, regions and salient box of the next one; `caption` goes
    with the image, as it says which of its regions are named.
    """

    def moved(x: Any) -> Any:
        if isinstance(x, Regions):
            return x.changed(moved)
        if isinstance(x, list):
            return x[1:] + x[:1]
        return None if x is None else x.roll(-1, 0)

    names = ("image", "regions", "saliency", "caption")
    return replace(batch, **{name: moved(getattr(batch, name)) for name in names})


def unseen(batch: Batch) -> Batch:
    """The same texts with blank images; boxes are those of the next image, as they tell much."""
    moved = elsewhere(batch)
    return replace(moved, image=torch.full_like(moved.image, GREY))


def spelled(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each word."""
    return [tokenizer.encode(word, 32).ids[1:-1] for word in words]


def where_said(ids: Tensor, words: Sequence[Sequence[int]]) -> Tensor:
    """Which tokens [...,T] of texts belong to one of the words (their ids in a row)."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    length = ids.shape[-1]
    for word in words:
        hit = torch.ones_like(found)
        for place, token in enumerate(word):
            later = F.pad(ids[..., place:], (0, min(place, length)), value=-1)
            hit &= later == token
        for place in range(min(len(word), length)):
            found |= F.pad(hit[..., : length - place], (place, 0))
    return found
