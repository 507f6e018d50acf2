"""Shards -> decoded, augmented, tokenised pairs -> batches; bad samples are replaced, counted and
listed.

Everything random about a sample is a function of (seed, sample, visit), drawn from a generator of
its own: the same for any number of workers and processes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sparc_pretrain.data import images
from sparc_pretrain.data.boxes import Crop
from sparc_pretrain.data.captions import BadCaption, choose, chosen, stored_captions
from sparc_pretrain.data.collate import collate
from sparc_pretrain.data.element_json import BadElements
from sparc_pretrain.data.elements import Elements, parse, said_in
from sparc_pretrain.data.fields import Fields
from sparc_pretrain.data.health import (
    FIRST_LOOK,
    DataHealth,
    ReadHealth,
    TooManyBadSamples,
    count,
)
from sparc_pretrain.data.images import BadImage
from sparc_pretrain.data.region_files import RegionFiles
from sparc_pretrain.data.shards import Coming, RawSample, ShardSet, read_in_turn
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.registry import DATASETS
from sparc_pretrain.types import BadSample

__all__ = ["DataHealth", "PairDataset", "TooManyBadSamples", "collate"]

SOURCE_KEYS = {"shards", "weight", "name"}


@DATASETS.register_module()
class PairDataset(Dataset):
    """Image-text pairs from one or several sources of shards, at random access.

    Args:
        sources: shards (a tar, folder or pattern), or a list of `dict(shards=..., weight=1.0,
            name=...)`; the log calls a source by its name, else by its shards.
        tokenizer: a Tokenizer, or what `Tokenizer.load` takes.
        image_size: side of the square images, in pixels.
        max_tokens: longest text, begin and end included.
        train: random crop; else `resize`. caption: 'any' (default of training), 'first' (default
            else) or 'longest' of an image's, see `captions.choose`.
        scale: share of the image's area that a training crop keeps (paper: Inception-style crops).
        flip: probability of a mirrored image; 0 because captions name left and right.
        max_pixels: larger images are refused before they are decoded.
        seed: of crops, flips, captions and replacements.
        resize: 'crop' or 'squash', how images become square when not `train`.
        max_bad_shards: the share of missing or damaged tars that is still tolerated.
        fields: what samples carry beside image and caption, see `data.fields.Fields`; a mirrored
            image is then left out where a text says left or right.

    `dataset[(index, visit)]` or `dataset[index]` (visit 0) gives a dict: image [3,S,S] uint8, ids,
    special, key, caption, pad_id, skipped. `shard_sizes` and `weights` serve `PairSampler`;
    `bad_shards` lists damaged tars; `fingerprint` changes when the data does.

    Raises ValueError for unknown keys of a source and for shards without a sample,
    FileNotFoundError for missing folders, TooManyBadSamples above `max_bad_shards`.
    """

    def __init__(
        self,
        sources: str | Path | Sequence[dict[str, Any]],
        tokenizer: Tokenizer | str | Path,
        image_size: int = 224,
        max_tokens: int = 55,
        train: bool = True,
        scale: tuple[float, float] = (0.9, 1.0),
        flip: float = 0.0,
        max_pixels: float = images.MAX_PIXELS,
        seed: int = 0,
        resize: str = "crop",
        max_bad_shards: float = 0.01,
        fields: dict[str, Any] | None = None,
        caption: str | None = None,
    ) -> None:
        sources = _as_list(sources)
        self.shard_sets = [ShardSet(source["shards"]) for source in sources]
        self.weights = [float(source.get("weight", 1.0)) for source in sources]
        self.names = [str(source.get("name") or source["shards"]) for source in sources]
        self.tokenizer = (
            tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(tokenizer)
        )
        self.image_size, self.max_tokens, self.train = image_size, max_tokens, train
        if not isinstance(scale, Sequence) or len(scale) != 2:
            raise ValueError(f"scale is two shares of the area, such as (0.9, 1.0), not {scale!r}")
        self.scale, self.flip, self.max_pixels = tuple(scale), flip, max_pixels
        self.seed, self.resize = seed or 0, resize
        self.caption = chosen(caption or ("any" if train else "first"))
        self.fields = Fields.of(fields)
        self.region_files = RegionFiles.of(self.fields.region_files) if self.fields else None
        if self.region_files and flip:
            raise ValueError("data.fields.region_files are of images as stored: flip must be 0")
        self.ends = np.cumsum([len(shards) for shards in self.shard_sets]).tolist()
        self._refuse_bad_shards(max_bad_shards)
        self.reads = ReadHealth()
        self._coming = Coming()

    def _refuse_bad_shards(self, most: float) -> None:
        total = sum(len(shards.paths) for shards in self.shard_sets)
        bad = self.bad_shards
        if len(bad) > most * total:
            raise TooManyBadSamples(
                f"{len(bad)} of {total} shards are missing or damaged, first {bad[0].shard}: "
                f"{bad[0].reason}; make them again, leave them out of the list, or "
                f"raise max_bad_shards, now {most:g}"
            )

    @property
    def shard_sizes(self) -> list[np.ndarray]:
        """Per source, [S] samples in each tar."""
        return [shards.sizes for shards in self.shard_sets]

    @property
    def bad_shards(self) -> list[BadSample]:
        """Tars that are missing or damaged; whole samples of a truncated one are used."""
        return [bad for shards in self.shard_sets for bad in shards.bad]

    @property
    def ignored(self) -> int:
        """Members of the tars that belong to no sample."""
        return sum(shards.ignored for shards in self.shard_sets)

    @property
    def fingerprint(self) -> str:
        """Names the data and its order: tars by content, weights, seed."""
        parts = [
            f"{shards.sha256[:16]}*{weight:g}"
            for shards, weight in zip(self.shard_sets, self.weights, strict=True)
        ]
        return f"{'+'.join(parts)} seed {self.seed}"

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """The samples of a batch; remote ones, and the first of `later`, are on their way."""
        asked = [tuple(map(int, i)) if isinstance(i, (tuple, list)) else (int(i), 0) for i in items]
        later = [self._place(item[2]) for item in asked if len(item) > 2]
        reads = self._coming.take([self._place(item[0]) for item in asked], later)
        return [self._sample(*item[:2], read) for item, read in zip(asked, reads, strict=True)]

    def _place(self, index: int) -> tuple[ShardSet, int]:
        source, n = self._locate(index)
        return self.shard_sets[source], n

    def _sample(self, index: int, visit: int, read: Callable[[], RawSample]) -> dict[str, Any]:
        """A sample, which is read so, or what replaces it."""
        source, n = self._locate(index)
        skipped: list[BadSample] = []
        for attempt in range(FIRST_LOOK):
            generator = np.random.default_rng((self.seed, index, visit, attempt))
            if attempt:  # another sample of the same source
                n = int(generator.integers(len(self.shard_sets[source])))
                read = partial(self.shard_sets[source].read, n)
            sample, bad = self._try(source, n, generator, read)
            if sample is not None:
                return sample | dict(skipped=skipped)
            skipped.append(bad)
        reasons = ", ".join(f"{why} ({n})" for why, n in count(skipped).most_common(3))
        raise TooManyBadSamples(
            f"none of {FIRST_LOOK} samples in a row can be used: {reasons}; "
            f"first {skipped[0].shard} {skipped[0].key}"
        )

    @staticmethod
    def captions(
        sources: str | Path | Sequence[dict[str, Any]], limit: int | None = None
    ) -> Iterator[str]:
        """Captions of `sources` in stored order, a sample of each source by turns, at most `limit`,
        to train a tokenizer; where there are more, of samples spread evenly over all tars.

        Unusable ones are left out. Raises like the constructor.
        """
        sets = [ShardSet(source["shards"]) for source in _as_list(sources)]
        most = max(map(len, sets))
        step = max(1, most * len(sets) // limit) if limit else 1
        return islice(_by_turns(sets, range(0, most, step)), limit)

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source = bisect_right(self.ends, index)
        return source, index - (self.ends[source - 1] if source else 0)

    def _try(
        self,
        source: int,
        n: int,
        generator: np.random.Generator,
        read: Callable[[], RawSample],
    ) -> tuple[dict[str, Any] | None, BadSample | None]:
        """Sample `n` of a source, or why it cannot be used."""
        shards = self.shard_sets[source]
        shard = shards.paths[shards.locate(n)[0]]
        key = ""
        try:
            raw = read()
            key = raw.key
            self.reads.worked()
            found = Elements(captions=stored_captions(raw)) if self.fields is None else None
            image = images.decode(raw.image, self.max_pixels)
            found = self._elements(raw, image) if found is None else found
            vectors = None
            if self.region_files:
                size = image.shape[-2:]
                vectors = self.region_files.read(found.image_id or key, key, size)
        except (BadImage, BadCaption, BadElements) as error:
            return None, BadSample(str(shard), key, str(error))
        except OSError as error:
            why = error.strerror or "cannot be read"
            self.reads.failed(error)
            return None, BadSample(str(shard), key, f"tar: {why}")
        said = found.captions or [""]  # of a source for boxes only
        caption = choose(said, self.caption, generator)
        encoding = self.tokenizer.encode(caption, self.max_tokens)
        crop, flip = self._crop(found, image, generator)
        image = images.cut(image, crop, self.image_size)
        key = f"{shard.stem}:{key}"
        sample = dict(image=image.flip(-1) if flip else image, ids=encoding.ids, key=key)
        sample |= dict(special=encoding.special, words=encoding.words, caption=caption)
        sample |= dict(pad_id=self.tokenizer.pad_id, fields=self.fields)
        if self.fields:
            name = found.image_id or key
            sample |= dict(image_id=name, product_id=found.product_id or name)
            sample |= self.fields.sample(
                found,
                encoding if found.captions else None,
                caption,
                crop,
                flip,
                self.tokenizer,
                self.max_tokens,
                generator if self.train else None,
                vectors,
            )
        return sample, None

    def _elements(self, raw: RawSample, image: torch.Tensor) -> Elements:
        """A sample's boxes. Raises BadCaption, BadElements."""
        height, width = image.shape[-2:]
        if raw.is_json and raw.text is not None:
            found = parse(raw.text, width, height)
        else:
            found = Elements(captions=stored_captions(raw))
        self.fields.check(found)
        return found

    def _crop(
        self, found: Elements, image: torch.Tensor, generator: np.random.Generator
    ) -> tuple[Crop, bool]:
        """What is seen of an image, and whether mirrored."""
        size = image.shape[-2:]
        if not self.train:
            return images.eval_crop(*size, self.resize), False
        if self.fields:
            crop = self.fields.place(found, size, self.scale, generator)
        else:
            crop = images.crop_box(*size, self.scale, images.RATIO, generator)
        flip = bool(self.flip) and generator.random() < self.flip
        return crop, flip and (self.fields is None or self.fields.may_mirror(found))


def _by_turns(sets: Sequence[ShardSet], places: range) -> Iterator[str]:
    wanted = ((shards, n) for n in places for shards in sets if n < len(shards))
    for read in read_in_turn(wanted, image=False):
        with suppress(BadCaption, BadElements, OSError):
            raw = read()
            boxed = raw.is_json and b'"elems"' in raw.text
            yield from said_in(raw.text) if boxed else stored_captions(raw)


def _as_list(sources: str | Path | Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    if isinstance(sources, (str, Path)):
        return [dict(shards=sources)]
    for source in sources:
        if "shards" not in source or set(source) - SOURCE_KEYS:
            raise ValueError(f"a source has the keys {sorted(SOURCE_KEYS)}, not {list(source)}")
    if not sources:
        raise ValueError("no source of data is given")
    return sources
