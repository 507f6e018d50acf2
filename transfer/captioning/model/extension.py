"""What a language model is given beside its vocabulary, by hooks: our own ids on the way in, the
end of a chunk on the way out; and what its `generate` is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from transfer.captioning.model.chunks import Chunks

ELSEWHERE = {
    "max_length": "set the captioner's max_tokens",
    "num_return_sequences": "an image gets one caption",
    "return_dict_in_generate": "captions come as texts",
}


class KnownIds:
    """A forward pre-hook of the language model's embedding: `<image>` reads as the beginning of a
    text and end-of-chunk as its end, so no gradient has to go down to the input.
    """

    def __init__(self, chunks: Chunks) -> None:
        words = chunks.tokenizer
        self.end_id, self.eos_id = chunks.end_id, words.eos_token_id
        self.begin_id = words.eos_token_id if words.bos_token_id is None else words.bos_token_id

    def __call__(self, embedding: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        ids = args[0].masked_fill(args[0] > self.end_id, self.begin_id)
        return (ids.masked_fill(ids == self.end_id, self.eos_id),)


class EndOfChunk:
    """A forward hook of the language model's head: one more logit, for end-of-chunk."""

    def __init__(self, row: nn.Parameter, eos_id: int) -> None:
        self.row, self.eos_id = row, eos_id

    def __call__(self, head: nn.Module, args: tuple[Tensor], logits: Tensor) -> Tensor:
        end = args[0].to(self.row.dtype) @ self.row
        if getattr(head, "bias", None) is not None:
            end = end + head.bias[self.eos_id].to(end.dtype)
        return torch.cat([logits, end[..., None].to(logits.dtype)], dim=-1)


def generation_config(
    options: dict[str, Any], max_tokens: int, begin: int | None, ends: Sequence[int], pad: int
) -> tuple[GenerationConfig, int]:
    """What `generate` is asked for, and the seed of sampling; begin, ends, pad: ids of tokens.

    Raises:
        ValueError: a typo, or an option that has no place here.
    """
    options = dict(options)
    seed = int(options.pop("seed", 0))
    known = GenerationConfig().to_dict()
    for key in options:
        if key in ELSEWHERE:
            raise ValueError(f"generation takes no {key!r}: {ELSEWHERE[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"generation has no option {key!r}{hint}")
    base = {
        "max_new_tokens": max_tokens,
        "do_sample": False,
        "num_beams": 1,
        "bos_token_id": begin,
        "eos_token_id": list(ends),
        "pad_token_id": pad,
    }
    return GenerationConfig(**{**base, **options}), seed
