"""The values that travel between loader, model and objective.

Legend of the suffixes used in shapes: B samples, P patches, T tokens, D shared width, Dv/Dt
    tower widths.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class BadSample:
    """A sample (or a whole shard, then ``key`` is empty) that could not be used, and why."""

    shard: str
    key: str
    reason: str


@dataclass
class Batch:
    """One batch of image-text pairs.

    image    [B,3,H,W] uint8 from the loader, float after the model's preprocessor
    ids      [B,T] long, right-padded to the longest caption of the batch
    mask     [B,T] bool, True = real token (special tokens are real, padding is not)
    special  [B,T] bool, True = special token (begin, end)
    key      one string per sample, ``shard:key``
    caption  the text that was tokenised, one per sample
    skipped  bad samples met, and replaced, while this batch was made
    """

    image: Tensor
    ids: Tensor
    mask: Tensor
    special: Tensor
    key: list[str]
    caption: list[str] = field(default_factory=list)
    skipped: list[BadSample] = field(default_factory=list)

    def __len__(self) -> int:
        return self.image.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        pinned = {
            f.name: getattr(self, f.name).pin_memory()
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)

    def chunk(self, parts: int) -> list[Batch]:
        """Split into `parts` micro-batches of equal size, in order.

        Raises ValueError when the batch size is not a multiple of `parts`.
        """
        if len(self) % parts:
            raise ValueError(f"a batch of {len(self)} cannot be split into {parts} equal parts")
        size = len(self) // parts
        return [self._rows(slice(i * size, (i + 1) * size)) for i in range(parts)]

    def _rows(self, rows: slice) -> Batch:
        picked = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "skipped"}
        return replace(self, **picked, skipped=[])


@dataclass
class ImageFeatures:
    """What a dual encoder makes of images: image [B,D], patches [B,P,D] in the shared space and
    **not** normalised;
    patch_states [B,P,Dv] is the vision tower's raw output."""

    image: Tensor
    patches: Tensor
    patch_states: Tensor


@dataclass
class TextFeatures:
    """What a dual encoder makes of captions: text [B,D], tokens [B,T,D] in the shared space and
    **not** normalised; mask [B,T] (True = real token), special [B,T]; token_states [B,T,Dt] is the
    text tower's raw output; words [B,T,D] are the tokens free of context and place, g_t of the text
    tower's token embeddings (None where nobody asked)."""

    text: Tensor
    tokens: Tensor
    mask: Tensor
    special: Tensor
    token_states: Tensor
    words: Tensor | None = field(default=None, kw_only=True)


@dataclass
class Features(ImageFeatures, TextFeatures):
    """Both halves of a batch of pairs: row i of the images belongs to row i of the texts."""

    @classmethod
    def of(cls, image: ImageFeatures, text: TextFeatures) -> Features:
        """Join the two halves."""
        return cls(**vars(image), **vars(text))
