"""Shards -> decoded, augmented, tokenised pairs -> batches; bad samples are replaced, counted and listed.

Everything random about a sample is a function of (seed, sample, visit), drawn from a generator of its own:
the same for any number of workers and processes.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.registry import FUNCTIONS
from torch.utils.data import Dataset

from sparc_pretrain.data import images
from sparc_pretrain.data.images import BadImage
from sparc_pretrain.data.shards import RawSample, ShardSet
from sparc_pretrain.data.tokenizer import Tokenizer, pad
from sparc_pretrain.registry import DATASETS
from sparc_pretrain.types import BadSample, Batch

FIRST_LOOK = 1000  # samples before the share of bad ones is judged, and tries before we give up
MAX_BAD_SHARDS = 0.1  # above this share of missing or damaged tars, training does not begin
SOURCE_KEYS = {"shards", "weight", "name"}


class TooManyBadSamples(ValueError):
    """More samples, or shards, are unusable than the limit allows; the message says which and why."""


class BadCaption(ValueError):
    """This sample has no caption that can be used; the message is the reason."""


@DATASETS.register_module()
class PairDataset(Dataset):
    """Image-text pairs from one or several sources of shards, at random access.

    Args:
        sources: shards (a tar, folder or pattern), or a list of `dict(shards=..., weight=1.0, name=...)`.
        tokenizer: a Tokenizer, or what `Tokenizer.load` takes.
        image_size: side of the square images, in pixels.
        max_tokens: longest text, begin and end included.
        train: random crop and random caption; else `resize` and the first caption.
        scale: share of the image's area that a training crop keeps (paper: Inception-style crops).
        flip: probability of a mirrored image; 0 because captions name left and right.
        max_pixels: larger images are refused before they are decoded.
        max_bad: share of bad samples that is tolerated; judged by `DataHealth`.
        seed: of crops, flips, captions and replacements.
        resize: 'crop' or 'squash', how images become square when not `train`.

    `dataset[(index, visit)]` or `dataset[index]` (visit 0) gives a dict: image [3,S,S] uint8, ids, special,
    key, caption, pad_id, skipped. `shard_sizes` and `weights` serve `PairSampler`; `bad_shards` lists
    damaged tars; `fingerprint` changes when the data does.

    Raises ValueError for unknown keys of a source and for shards without a sample, FileNotFoundError for
    missing folders, TooManyBadSamples when more than a tenth of the tars is missing or damaged.
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
        max_bad: float = 0.01,
        seed: int = 0,
        resize: str = "crop",
    ) -> None:
        if isinstance(sources, (str, Path)):
            sources = [dict(shards=sources)]
        for source in sources:
            if "shards" not in source or set(source) - SOURCE_KEYS:
                raise ValueError(f"a source has the keys {sorted(SOURCE_KEYS)}, not {list(source)}")
        self.shard_sets = [ShardSet(source["shards"]) for source in sources]
        self.weights = [float(source.get("weight", 1.0)) for source in sources]
        self.names = [str(source.get("name", "")) for source in sources]
        self.tokenizer = (
            tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(tokenizer)
        )
        self.image_size, self.max_tokens, self.train = image_size, max_tokens, train
        self.scale, self.flip, self.max_pixels = tuple(scale), flip, max_pixels
        self.max_bad, self.seed, self.resize = max_bad, seed or 0, resize
        self.ends = np.cumsum([len(shards) for shards in self.shard_sets]).tolist()
        self._refuse_bad_shards()

    def _refuse_bad_shards(self) -> None:
        total = sum(len(shards.paths) for shards in self.shard_sets)
        bad = self.bad_shards
        if len(bad) > MAX_BAD_SHARDS * total:
            raise TooManyBadSamples(
                f"{len(bad)} of {total} shards are missing or damaged, first {bad[0].shard}: "
                f"{bad[0].reason}; make them again, or leave them out of the list"
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
        index, visit = item if isinstance(item, (tuple, list)) else (item, 0)
        index, visit = int(index), int(visit)
        source, n = self._locate(index)
        skipped: list[BadSample] = []
        for attempt in range(FIRST_LOOK):
            generator = np.random.default_rng((self.seed, index, visit, attempt))
            if attempt:  # another sample of the same source
                n = int(generator.integers(len(self.shard_sets[source])))
            sample, bad = self._try(source, n, generator)
            if sample is not None:
                return sample | dict(skipped=skipped)
            skipped.append(bad)
        reasons = ", ".join(f"{why} ({n})" for why, n in _count(skipped).most_common(3))
        raise TooManyBadSamples(
            f"none of {FIRST_LOOK} samples in a row can be used: {reasons}; "
            f"first {skipped[0].shard} {skipped[0].key}"
        )

    def captions(self, index: int) -> list[str]:
        """All captions of a sample. Raises BadCaption when it has none that can be used."""
        source, n = self._locate(index)
        return read_captions(self.shard_sets[source].read(n, image=False))

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        source = bisect_right(self.ends, index)
        return source, index - (self.ends[source - 1] if source else 0)

    def _try(
        self, source: int, n: int, generator: np.random.Generator
    ) -> tuple[dict[str, Any] | None, BadSample | None]:
        """Sample `n` of a source, or why it cannot be used."""
        shards = self.shard_sets[source]
        shard = shards.paths[shards.locate(n)[0]]
        key = ""
        try:
            raw = shards.read(n)
            key = raw.key
            captions = read_captions(raw)
            image = images.decode(raw.image, self.max_pixels)
        except (BadImage, BadCaption) as error:
            return None, BadSample(str(shard), key, str(error))
        except OSError as error:
            why = error.strerror or "cannot be read"
            return None, BadSample(str(shard), key, f"tar: {why}")
        caption = captions[int(generator.integers(len(captions)))] if self.train else captions[0]
        encoding = self.tokenizer.encode(caption, self.max_tokens)
        sample = dict(image=self._square(image, generator), ids=encoding.ids)
        sample |= dict(special=encoding.special, key=f"{shard.stem}:{key}", caption=caption)
        return sample | dict(pad_id=self.tokenizer.pad_id), None

    def _square(self, image: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        if not self.train:
            return images.eval_resize(image, self.image_size, self.resize)
        image = images.train_crop(image, self.image_size, self.scale, generator=generator)
        return image.flip(-1) if self.flip and generator.random() < self.flip else image


def read_captions(raw: RawSample) -> list[str]:
    """The usable captions of a stored sample, stripped; of several, blank ones are left out.

    Raises BadCaption: missing, not UTF-8, broken JSON, or empty.
    """
    if raw.text is None:
        raise BadCaption("no caption")
    try:
        text = raw.text.decode("utf-8")
        if raw.is_json:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise BadCaption("caption JSON is not an object")
            found = found.get("captions") or found.get("caption")
            found = found if isinstance(found, list) else [found]
            texts = [one for one in found if isinstance(one, str)]
            "".join(texts).encode()  # JSON can name lone surrogates, which no encoding can hold
        else:
            texts = [text]
    except UnicodeError:
        raise BadCaption("caption is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadCaption):
            raise
        raise BadCaption("caption JSON is broken") from None
    texts = [one for one in (text.strip() for text in texts) if one]
    if not texts:
        raise BadCaption("caption is empty")
    return texts


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
    )


class DataHealth:
    """What this training process has met of bad samples: counted per reason, listed, limited.

    Each bad sample is listed once in `work_dir/bad_samples.jsonl`. From 1,000 samples on, `update` raises
    TooManyBadSamples when more than `max_bad` of the samples read were bad. Replacements that were read
    and bad count as read.
    """

    def __init__(self, max_bad: float = 0.01, work_dir: str | Path | None = None) -> None:
        self.max_bad = max_bad
        self.file = Path(work_dir) / "bad_samples.jsonl" if work_dir else None
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self._listed: set[BadSample] = set()

    @property
    def bad(self) -> int:
        """How many of the samples read were bad."""
        return sum(self.reasons.values())

    def note_shards(self, bad_shards: Sequence[BadSample]) -> None:
        """List damaged tars; they do not count as samples."""
        self._list(bad_shards)

    def update(self, batch: Batch) -> None:
        """Count a batch, list its bad samples. Raises TooManyBadSamples above the limit."""
        self.seen += len(batch) + len(batch.skipped)
        self.reasons += _count(batch.skipped)
        self._list(batch.skipped)
        if self.seen >= FIRST_LOOK and self.bad > self.max_bad * self.seen:
            listed = f", listed in {self.file}" if self.file else ""
            raise TooManyBadSamples(
                f"{self.bad} of {self.seen} samples are bad ({self.summary()}){listed}; "
                f"clean the shards or raise max_bad, now {self.max_bad:g}"
            )

    def summary(self) -> str:
        """The reasons, most frequent first, in one line."""
        return ", ".join(f"{why}: {n}" for why, n in self.reasons.most_common()) or "none bad"

    def _list(self, bad: Sequence[BadSample]) -> None:
        new = [one for one in dict.fromkeys(bad) if one not in self._listed]
        self._listed.update(new)
        if new and self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with open(self.file, "a", encoding="utf-8") as file:
                for one in new:
                    line = dict(shard=one.shard, key=one.key, reason=one.reason)
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _count(bad: Sequence[BadSample]) -> Counter[str]:
    return Counter(one.reason for one in bad)
