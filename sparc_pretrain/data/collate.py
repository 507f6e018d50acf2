"""Samples of `PairDataset` -> a batch; micro-batches of a loader -> the batch that they are of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Any

import torch
from mmengine.registry import FUNCTIONS
from torch import Tensor

from sparc_pretrain.chance import key_of
from sparc_pretrain.data.tokenizer import pad, pad_rows
from sparc_pretrain.types import Batch, Rows

NO_WORD = -1


@FUNCTIONS.register_module(name="sparc_collate")
def collate(samples: list[dict[str, Any]]) -> Batch:
    """Samples of `PairDataset` -> Batch, texts right-padded to the longest of them."""
    ids, mask, special = pad(
        [sample["ids"] for sample in samples],
        [sample["special"] for sample in samples],
        samples[0]["pad_id"],
    )
    return Batch(
        image=torch.stack([sample["image"] for sample in samples]),
        ids=ids,
        mask=mask,
        special=special,
        key=[sample["key"] for sample in samples],
        caption=[sample["caption"] for sample in samples],
        skipped=[bad for sample in samples for bad in sample["skipped"]],
        length=[len(sample["ids"]) for sample in samples],
        pad_id=samples[0]["pad_id"],
        word=pad_rows([sample["words"] for sample in samples], NO_WORD),
        draw=torch.tensor([key_of(sample["key"]) for sample in samples]),
        **(samples[0]["fields"].collate(samples) if samples[0]["fields"] else {}),
    )


def join(parts: Iterator[Batch], count: int) -> Batch | None:
    """The next `count` equal parts -> the batch that they are of, equal in every bit to what
    `collate` makes of all its samples; None when there are fewer.

    Images are copied as they come, and let go: what a loader's worker made lies in shared memory.
    """
    if count == 1:
        return next(parts, None)
    image, rest, begin = None, [], 0
    for part in islice(parts, count):
        end = begin + len(part)
        if image is None:
            image = part.image.new_empty(count * end, *part.image.shape[1:])
        image[begin:end] = part.image
        rest.append(replace(part, image=part.image.new_empty(0)))
        begin = end
        del part  # before the next one is waited for
    return replace(_join(rest, rest[0].pad_id), image=image) if len(rest) == count else None


def _join(parts: Sequence[Any], pad_id: int) -> Any:
    made = {}
    for name in (f.name for f in fields(parts[0])):
        values = [getattr(part, name) for part in parts]
        first = values[0]
        if any(value is None for value in values):  # vectors that a sample lacks: none for all
            made[name] = None
        elif isinstance(first, Tensor):
            made[name] = _rows(values, {"ids": pad_id, "word": NO_WORD}.get(name, 0))
        elif isinstance(first, Rows):
            made[name] = _join(values, pad_id)
        elif isinstance(first, list):
            made[name] = [one for value in values for one in value]
        else:
            made[name] = first
    return type(parts[0])(**made)


def _rows(parts: list[Tensor], fill: int) -> Tensor:
    """[b,...] of all parts one below the other; those whose last dimension, of tokens, is shorter
    are padded with `fill`.
    """
    longest = max(part.shape[-1] for part in parts)
    if parts[0].ndim == 1 or all(part.shape[-1] == longest for part in parts):
        return torch.cat(parts)
    shape = (sum(map(len, parts)), *parts[0].shape[1:-1], longest)
    made = parts[0].new_full(shape, fill)
    begin = 0
    for part in parts:
        made[begin : begin + len(part), ..., : part.shape[-1]] = part
        begin += len(part)
    return made
