"""What a sample carries beside image and caption: concepts, tags, regions, saliency; how its image
is cropped so that boxes follow; and how samples become the optional fields of a `Batch`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as members
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparc_pretrain import chance
from sparc_pretrain.data import boxes, images
from sparc_pretrain.data.boxes import Crop
from sparc_pretrain.data.element_json import BadElements
from sparc_pretrain.data.elements import Elements, text_key
from sparc_pretrain.data.region_files import FoundRegions
from sparc_pretrain.data.tokenizer import Encoding, Tokenizer, pad, pad_rows
from sparc_pretrain.types import Concepts, Regions, Tags

CROPS = ("area", "element", "none")
SEVERAL = ("skip", "each")
GRID = 4  # cells a side that stand in for boxes
Json = dict[str, Any]


@dataclass(frozen=True)
class Fields:
    """The config's `data.fields`; a number of 0 leaves the field out.

    Args:
        concepts: at most as many boxes with texts of an image, besides its caption.
        tags: at most as many tokens of tags. regions: at most as many boxes.
        saliency: the box of what the picture is about.
        crop: 'area' = the training's usual crop; 'element' = one that holds a box whole (X-VLM);
            'none' = the whole image, squashed.
        min_visible: a box is kept when more than this share of its area is in the crop.
        several: a text that names several boxes of an image makes no concept ('skip'), or one of
            each ('each', as X-VLM's released code does).
        labels: class names by number from 1, of `regions`. without_boxes: 'grid' = images without
            boxes get 4 x 4 cells as regions.
        region_files: regions and their vectors come from elsewhere, see `RegionFiles`; they are of
            the whole image, so `crop` must be 'none'.

    Raises ValueError for values that are none of these.
    """

    concepts: int = 0
    tags: int = 0
    regions: int = 0
    saliency: bool = False
    crop: str = "element"
    min_visible: float = 0.5
    several: str = "skip"
    labels: Sequence[str] = ()
    without_boxes: str | None = None
    region_files: Json | None = None

    def __post_init__(self) -> None:
        for name in ("concepts", "tags", "regions"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"data.fields.{name}={value!r} must be a whole number, 0 or more")
        known = {"crop": CROPS, "several": SEVERAL, "without_boxes": (None, "grid")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"data.fields.{name}={getattr(self, name)!r}: use one of {values}")
        if self.region_files and self.crop != "none":
            raise ValueError(
                "data.fields.region_files are of whole images: data.fields.crop must be 'none'"
            )
        if not 0 <= self.min_visible < 1:
            raise ValueError(f"data.fields.min_visible={self.min_visible} must be in [0,1)")

    @classmethod
    def of(cls, config: Json | None) -> Fields | None:
        """From a config's dict. Raises ValueError naming an unknown key."""
        if not config:
            return None
        known = [f.name for f in members(cls)]
        for key in config:
            if key not in known:
                raise ValueError(f"config key data.fields.{key} is unknown; known: {known}")
        return cls(**config)

    # ------------------------------------------------------------ a sample

    def check(self, found: Elements) -> None:
        """Raises BadElements with the reason why a sample cannot be used."""
        given = self.without_boxes or self.region_files
        if self.regions and not len(found) and not given:
            raise BadElements("no boxes")
        if self.tags and not found.tag_list():
            raise BadElements("no tags")
        if not found.captions and not (self.concepts and any(found.texts)):
            raise BadElements("neither a caption nor a box with a text")

    @staticmethod
    def may_mirror(found: Elements) -> bool:
        """Whether no caption, text or tag of the sample says left or right."""
        said = [*found.captions, *found.tags, *(text for texts in found.texts for text in texts)]
        return not any(boxes.names_a_side(text) for text in said)

    def place(
        self,
        found: Elements,
        size: tuple[int, int],
        scale: tuple[float, float],
        generator: np.random.Generator,
    ) -> Crop:
        """The training crop of an image of `size` (H, W); `scale` as of `images.train_crop`."""
        height, width = size
        if self.crop == "none":
            return 0, 0, height, width
        if self.crop == "element" and len(found):
            one = found.boxes[int(generator.integers(len(found)))]
            return boxes.crop_round(one, height, width, generator)
        return images.crop_box(height, width, scale, images.RATIO, generator)

    def sample(
        self,
        found: Elements,
        caption: Encoding | None,
        caption_text: str,
        crop: Crop,
        flip: bool,
        tokenizer: Tokenizer,
        max_tokens: int,
        generator: np.random.Generator | None,
        vectors: FoundRegions | None = None,
    ) -> Json:
        """What `collate` joins, of one sample: its boxes in 0..1 of `crop`, its texts encoded.

        Args: caption: encoded; None where the sample has none. generator: None = the first of
            everything, nothing random. vectors: of files.
        """
        moved, visible = boxes.move(found.boxes, crop, flip)
        seen = visible > self.min_visible
        made: Json = {}
        if self.concepts:
            drawn = self._drawn(found, seen, generator)
            which, texts = [i for i, _ in drawn], [text for _, text in drawn]
            made["concepts"] = dict(
                box=torch.cat([_whole(), moved[which].float()]),
                encodings=[caption, *(tokenizer.encode(text, max_tokens) for text in texts)],
                text_id=[text_key(caption_text), *map(text_key, texts)],
                pad_id=tokenizer.pad_id,
            )
        if self.tags:
            text = " ".join(found.tag_list())
            encoding = tokenizer.encode(text, self.tags + 1)
            made["tags"] = dict(
                ids=encoding.ids[1:],
                word=encoding.words[1:],
                text_id=text_key(text),
                pad_id=tokenizer.pad_id,
            )
        if self.regions and vectors is not None:
            made["regions"] = vars(vectors)
        elif self.regions:
            kept = seen.nonzero()[:, 0].tolist()[: self.regions]
            numbers = {name: n for n, name in enumerate(self.labels, start=1)}
            made["regions"] = dict(
                box=moved[kept].float() if len(found) else _cells(),
                label=[numbers.get(found.labels[i], 0) for i in kept],
            )
        if self.saliency:
            box = found.saliency
            if box is not None:
                box = boxes.move(box[None], crop, flip)[0][0].float()
            made["saliency"] = _whole()[0] if box is None else box
        return made

    def _drawn(
        self, found: Elements, seen: Tensor, generator: np.random.Generator | None
    ) -> list[tuple[int, str]]:
        """Which boxes become concepts, and with which text: some of those that are seen."""
        texts = found.texts
        if self.several == "skip":
            owners = Counter(text for own in texts for text in {one.lower() for one in own})
            texts = [[one for one in own if owners[one.lower()] == 1] for own in texts]
        there = [i for i, own in enumerate(texts) if own and seen[i]]
        if generator is None:
            return [(i, texts[i][0]) for i in there[: self.concepts]]
        there = [there[n] for n in generator.permutation(len(there))[: self.concepts]]
        return [(i, texts[i][int(generator.integers(len(texts[i])))]) for i in there]

    # ------------------------------------------------------------ a batch

    def collate(self, samples: Sequence[Json]) -> Json:
        """Samples -> the optional fields of a `Batch`."""
        made: Json = {
            name: torch.tensor([chance.key_of(sample[name]) for sample in samples])
            for name in ("image_id", "product_id")
        }
        if self.concepts:
            made["concepts"] = _concepts([s["concepts"] for s in samples], 1 + self.concepts)
        if self.tags:
            made["tags"] = _tags([s["tags"] for s in samples])
        if self.regions:
            made["regions"] = self._regions([s["regions"] for s in samples])
        if self.saliency:
            made["saliency"] = torch.stack([s["saliency"] for s in samples])
        return made

    def _regions(self, samples: Sequence[Json]) -> Regions:
        box = torch.zeros(len(samples), self.regions, 4)
        label = torch.zeros(len(samples), self.regions, dtype=torch.long)
        valid = torch.zeros(len(samples), self.regions, dtype=torch.bool)
        for row, one in enumerate(samples):
            count = min(len(one["box"]), self.regions)
            box[row, :count], valid[row, :count] = one["box"][:count], True
            named = one["label"][:count]
            label[row, : len(named)] = torch.as_tensor(named, dtype=torch.long)
        given = [_padded([s.get(key) for s in samples], self.regions) for key in ("state", "probs")]
        return Regions(box, valid, label, *given)


def _padded(rows: Sequence[Tensor | None], count: int) -> Tensor | None:
    """[B,count,F] of the first `count` of each row's vectors [n,F]; None where a row has none."""
    if any(row is None for row in rows):
        return None
    made = torch.zeros(len(rows), count, rows[0].shape[1])
    for one, row in zip(made, rows, strict=True):
        one[: len(row)] = row[:count]
    return made


def _concepts(samples: Sequence[Json], count: int) -> Concepts:
    size = (len(samples), count)
    box, valid = torch.zeros(*size, 4), torch.zeros(size, dtype=torch.bool)
    text_id = torch.zeros(size, dtype=torch.long)
    ids: list[list[int]] = []
    special: list[list[bool]] = []
    words: list[list[int]] = []
    for row, one in enumerate(samples):
        here = len(one["encodings"])
        box[row, :here], text_id[row, :here] = one["box"], torch.tensor(one["text_id"])
        valid[row, :here] = torch.tensor([e is not None for e in one["encodings"]])
        for encoding in one["encodings"] + [None] * (count - here):
            ids.append(encoding.ids if encoding else [])
            special.append(encoding.special if encoding else [])
            words.append(encoding.words if encoding else [])
    ids_NT, mask_NT, special_NT = pad(ids, special, samples[0]["pad_id"])
    parts = (ids_NT, mask_NT, special_NT, pad_rows(words, -1))
    return Concepts(box, *(x.unflatten(0, size) for x in parts), valid, text_id)


def _tags(samples: Sequence[Json]) -> Tags:
    ids = [one["ids"] for one in samples]
    ids_BQ, mask_BQ, _ = pad(ids, [[False] * len(one) for one in ids], samples[0]["pad_id"])
    word = pad_rows([one["word"] for one in samples], -1)
    return Tags(ids_BQ, mask_BQ, word, torch.tensor([one["text_id"] for one in samples]))


def _whole() -> Tensor:
    return torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def _cells() -> Tensor:
    """[GRID^2,4]: the cells of a grid, row by row."""
    low = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)).flip(1) / GRID
    return torch.cat([low, low + 1 / GRID], dim=1)
