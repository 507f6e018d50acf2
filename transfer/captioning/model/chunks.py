"""Interleaved images and captions as one sequence of tokens:
`<image> prompt caption end-of-chunk <image> prompt caption end-of-chunk ...`, as Flamingo has it
(arXiv 2204.14198, app. A.1).

To a frozen language model `<image>` reads as the beginning of a text and end-of-chunk as its end,
so that a sequence is to it what it has always read: texts, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sequences:
    """A batch. `ids` [B,T] long; `index` [B,T] long, the image that a token belongs to (-1 = none
    yet); `mask` [B,T] bool, True = real; `scored` [B,T] bool, True = a word or end of a caption.
    """

    ids: Tensor
    index: Tensor
    mask: Tensor
    scored: Tensor

    def to(self, device: torch.device) -> Sequences:
        """The same on `device`."""
        return Sequences(*(getattr(self, k).to(device) for k in self.__dataclass_fields__))


class Chunks:
    """Builds sequences for a language model with V tokens.

    End-of-chunk is V, `<image>` V + 1, a position of a prefix V + 2: ids of our own, outside the
    tokenizer, so that no text can spell them.

    Args:
        vocabulary: V. prompt: put between `<image>` and the caption. max_tokens: longest caption in
            tokens; a longer one loses its tail and its end.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: int,
        prompt: str = "",
        max_tokens: int = 40,
    ) -> None:
        self.tokenizer, self.prompt, self.max_tokens = tokenizer, prompt, max_tokens
        self.end_id, self.image_id, self.prefix_id = (vocabulary + n for n in range(3))

    def training(
        self,
        captions: Sequence[Sequence[str]],
        prompts: Sequence[str | None] | None = None,
        prefix: int = 0,
    ) -> Sequences:
        """captions [B][I], one for each image -> right-padded sequences.

        `prompts` [B] replace the prompt of the last chunk (questions); `prefix`: positions before
        `<image>` that the image itself takes.
        """
        prompts = prompts or [None] * len(captions)
        pairs = zip(captions, prompts, strict=True)
        rows = [self._row(texts, prompt, prefix) for texts, prompt in pairs]
        return self._pad(rows, left=False)

    def prompts(
        self,
        shots: Sequence[Sequence[str]],
        prompts: Sequence[str | None] | None = None,
        prefix: int = 0,
    ) -> Sequences:
        """Example captions [B][K] of the first K images -> left-padded sequences that end where the
        caption of image K + 1 begins; see `training`.
        """
        prompts = prompts or [None] * len(shots)
        pairs = zip(shots, prompts, strict=True)
        rows = [self._row([*texts, None], prompt, prefix) for texts, prompt in pairs]
        return self._pad(rows, left=True)

    def decode(self, ids: Sequence[int]) -> str:
        """The caption in generated ids: what stands before the first end."""
        text = []
        for i in ids:
            if i >= self.end_id or i == self.tokenizer.eos_token_id:
                break
            text.append(i)
        return self.tokenizer.decode(text, skip_special_tokens=True).strip()

    def encode(self, text: str) -> list[int]:
        """Ids without begin and end; of a very long text only the beginning is looked at."""
        text = text[: 64 * (self.max_tokens + 1)]
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]

    def _row(
        self, captions: Sequence[str | None], prompt: str | None, prefix: int
    ) -> tuple[list[int], list[int], list[bool]]:
        ids: list[int] = []
        index: list[int] = []
        scored: list[bool] = []
        for number, caption in enumerate(captions):
            last = number == len(captions) - 1
            asked = prompt if last and prompt is not None else self.prompt
            chunk = [self.prefix_id] * prefix + [self.image_id]
            chunk += self.encode(asked) if asked else []
            words: list[int] = []
            if caption is not None:
                words = self.encode(f" {caption.strip()}" if asked else caption.strip())
                if len(words) < self.max_tokens:  # one that is cut does not end here
                    words.append(self.end_id)
                words = words[: self.max_tokens]
            ids += chunk + words
            index += [number] * (len(chunk) + len(words))
            scored += [False] * len(chunk) + [True] * len(words)
        return ids, index, scored

    def _pad(self, rows: list[tuple[list[int], list[int], list[bool]]], left: bool) -> Sequences:
        longest = max(len(ids) for ids, _, _ in rows)
        shape = (len(rows), longest)
        ids = torch.full(shape, self.tokenizer.pad_token_id)
        index = torch.full(shape, -1)
        mask, scored = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        for n, (one, images, targets) in enumerate(rows):
            place = slice(longest - len(one), longest) if left else slice(0, len(one))
            ids[n, place], index[n, place] = torch.tensor(one), torch.tensor(images)
            mask[n, place], scored[n, place] = True, torch.tensor(targets)
        return Sequences(ids, index, mask, scored)
