"""The values that travel between loader, model and objective.

Legend of the suffixes used in shapes: B samples, P patches, T tokens, D shared width, Dv/Dt
    tower widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor

from sparc_pretrain.distributed import total


@dataclass(frozen=True)
class BadSample:
    """A sample (or a whole shard, then ``key`` is empty) that could not be used, and why."""

    shard: str
    key: str
    reason: str


class Rows:
    """A dataclass of tensors with B rows each, of further `Rows`, of dicts of both, of lists with
    an entry per row, or None: they are moved, pinned and cut together.
    """

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with `change` applied to every tensor, those of nested parts too."""

        def each(value: object) -> object:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, Rows):
                return value.changed(change)
            if isinstance(value, dict):
                return {name: each(one) for name, one in value.items()}
            return value

        return type(self)(**{f.name: each(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same with its tensors on `device`."""
        return self.changed(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory (called by torch's DataLoader)."""
        return self.changed(torch.Tensor.pin_memory)

    def rows(self, which: slice | Tensor) -> Self:
        """Some of the rows, of lists as well: a slice, or their numbers [b] long, which a GPU need
        not be waited for where they lie on the CPU.
        """
        numbers = which.tolist() if isinstance(which, Tensor) else which

        def each(value: object) -> object:
            if isinstance(value, Tensor):
                at = which if numbers is which else which.to(value.device, non_blocking=True)
                return value[at]
            if isinstance(value, Rows):
                return value.rows(which)
            if isinstance(value, dict):
                return {name: each(one) for name, one in value.items()}
            if isinstance(value, list):
                return value[numbers] if numbers is which else [value[i] for i in numbers if value]
            return value

        return type(self)(**{f.name: each(getattr(self, f.name)) for f in fields(self)})


@dataclass
class Concepts(Rows):
    """Boxes with texts, of which slot 0 is the whole image with its caption.

    box      [B,K,4] float32, x0 y0 x1 y1 in 0..1 of the image as it is seen
    ids, mask, special, word   [B,K,T], of the texts, as in `Batch`
    valid    [B,K] bool; what stands in other places means nothing
    text_id  [B,K] long, `data.elements.text_key`: equal for equal texts
    """

    box: Tensor
    ids: Tensor
    mask: Tensor
    special: Tensor
    word: Tensor
    valid: Tensor
    text_id: Tensor


@dataclass
class Tags(Rows):
    """The tags of an image joined by blanks: ids, mask, word [B,Q], the end token last, no begin
    token; text_id [B].
    """

    ids: Tensor
    mask: Tensor
    word: Tensor
    text_id: Tensor


@dataclass
class SaidTags(Rows):
    """Class names of given boxes, as tags: ids, mask [B,Q], the end token last, no begin token;
    `tower` turns ids and mask [n,T] into states [n,T,Dt], each token by itself and its place, of
    at most `longest` tokens.
    """

    ids: Tensor
    mask: Tensor
    tower: Callable[[Tensor, Tensor], Tensor]
    longest: int


@dataclass
class Regions(Rows):
    """Boxes [B,R,4] as those of concepts, valid [B,R] bool, label [B,R] long (0 = none); of files
    also state [B,R,F] and probs [B,R,C]; of boxes given at
    reading time `tags`, their names.
    """

    box: Tensor
    valid: Tensor
    label: Tensor
    state: Tensor | None = None
    probs: Tensor | None = None
    tags: SaidTags | None = None


@dataclass
class Views(Rows):
    """What an objective has drawn for a batch, see `Objective.views`.

    texts   name -> ids, mask, special of other texts to encode, [B,T] each
    images  name -> other pixels to encode, [B,3,H,W], or [B,n,3,s,s], of which the vision tower's
            pooled states [B,n,Dv] are made (`ImageFeatures.patch_states`)
    step    that it was drawn for
    drawn   name -> masks, labels, the contents of donors, [B,...]
    counts  name of a mask in `drawn` -> how many of each row are True, see `choose`
    totals  the same of the global batch, of all its rows
    taught  names of images, 'image' = the batch's own, whose states by the frozen tower that the
            training started from are put into `drawn`, as `taught_NAME`
    still   names of images through which no gradient goes
    """

    texts: dict[str, Words] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    drawn: dict[str, Tensor] = field(default_factory=dict)
    taught: tuple[str, ...] = ()
    still: tuple[str, ...] = ()
    step: int = 0
    counts: dict[str, list[int]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)

    def choose(self, **masks: Tensor) -> Views:
        """The same with masks [B,...] in `drawn` and counted, on every process at once: the one
        time that a step waits for a GPU, before its towers start.
        """
        sums = torch.stack([mask.flatten(1).sum(dim=1) for mask in masks.values()], dim=1)
        everywhere = total(sums.sum(dim=0, keepdim=True))
        *rows, totals = torch.cat([sums, everywhere]).tolist()
        counts = dict(zip(masks, map(list, zip(*rows, strict=True)), strict=True))
        return replace(
            self,
            drawn=self.drawn | masks,
            counts=self.counts | counts,
            totals=self.totals | dict(zip(masks, totals, strict=True)),
        )

    def places(self, name: str) -> Tensor:
        """Where the flattened mask of that name is True [M] long, in order. M is known, so nothing
        waits for a GPU.
        """
        mask, count = self.drawn[name].flatten(), sum(self.counts[name])
        torch._assert_async(mask.sum() == count, f"views.counts[{name!r}] is of another mask")
        return mask.nonzero_static(size=count)[:, 0]


@dataclass
class Words(Rows):
    """Token ids, mask (True = real) and special [B,T]."""

    ids: Tensor
    mask: Tensor
    special: Tensor


@dataclass
class Batch(Rows):
    """One batch of image-text pairs.

    image    [B,3,H,W] uint8 from the loader, float after the model's preprocessor
    ids      [B,T] long, right-padded to the longest caption of the batch
    mask     [B,T] bool, True = real token (special tokens are real, padding is not)
    special  [B,T] bool, True = special token (begin, end)
    key      one string per sample, ``shard:key``
    caption  the text that was tokenised, one per sample
    skipped  bad samples met, and replaced, while this batch was made
    word     [B,T] long, number of the word a token belongs to, -1 for special tokens and padding
    draw     [B] long, the sample's key for `chance`
    length   tokens of each caption, if known: whose batch lies on a GPU would wait to count them
    pad_id   what ids are padded with

    From here on only what the config's `data.fields` asks for, else None:
    image_id, product_id  [B] long, `chance.key_of` of their names
    concepts, tags, regions
    saliency [B,4] float32, the box of what the picture is about
    views    what the objective drew for this step
    """

    image: Tensor
    ids: Tensor
    mask: Tensor
    special: Tensor
    key: list[str]
    caption: list[str] = field(default_factory=list)
    skipped: list[BadSample] = field(default_factory=list)
    word: Tensor | None = None
    draw: Tensor | None = None
    length: list[int] = field(default_factory=list, kw_only=True)
    pad_id: int = field(default=0, kw_only=True)
    image_id: Tensor | None = None
    product_id: Tensor | None = None
    concepts: Concepts | None = None
    tags: Tags | None = None
    regions: Regions | None = field(default=None, kw_only=True)
    saliency: Tensor | None = None
    views: Views | None = None

    def __len__(self) -> int:
        return self.image.shape[0]

    def chunk(self, parts: int) -> list[Batch]:
        """Split into `parts` micro-batches of equal size, in order.

        Raises ValueError when the batch size is not a multiple of `parts`.
        """
        if len(self) % parts:
            raise ValueError(f"a batch of {len(self)} cannot be split into {parts} equal parts")
        size = len(self) // parts
        whole = replace(self, skipped=[])  # not an entry per sample
        return [whole.rows(slice(i * size, (i + 1) * size)) for i in range(parts)]


@dataclass
class ImageFeatures:
    """What a dual encoder makes of images: image [B,D], patches [B,P,D] in the shared space and
    **not** normalised;
    patch_states [B,P,Dv] is the vision tower's raw output; regions where boxes came with them."""

    image: Tensor
    patches: Tensor
    patch_states: Tensor
    regions: Regions | None = field(default=None, kw_only=True)


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
    """Both halves of a batch of pairs: row i of the images belongs to row i of the texts.

    views: name -> the features of what `Objective.views` asked to encode, else empty. Of a batch
    with concepts, where the objective names them: concept [B,K,D] and concept_text [B,K,D], their
    vectors; concept_states [B,K,T,Dt], masked_states [B,K,T,Dt] of the view 'masked'. word_table
    [V,Dt]: the text tower's embeddings, for tied heads.
    """

    concept: Tensor | None = field(default=None, kw_only=True)
    concept_text: Tensor | None = field(default=None, kw_only=True)
    concept_states: Tensor | None = field(default=None, kw_only=True)
    masked_states: Tensor | None = field(default=None, kw_only=True)
    word_table: Tensor | None = field(default=None, kw_only=True)

    views: dict[str, ImageFeatures | TextFeatures] = field(default_factory=dict, kw_only=True)

    @classmethod
    def of(cls, image: ImageFeatures, text: TextFeatures) -> Features:
        """Join the two halves."""
        return cls(**vars(image), **vars(text))
