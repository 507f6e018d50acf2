"""Captions from pre-training shards, to train a captioner on what the backbone was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from sparc_pretrain.data.captions import BadCaption, stored_captions
from sparc_pretrain.data.health import DataHealth
from sparc_pretrain.data.images import MAX_PIXELS, BadImage, decode, eval_resize
from sparc_pretrain.data.shards import ShardSet
from sparc_pretrain.registry import DATASETS
from sparc_pretrain.types import BadSample
from transfer.captioning.data.dataset import TRIES


@DATASETS.register_module()
class ShardCaptionDataset(Dataset):
    """Training items, as of `CaptionDataset`, one per sample of `shards`.

    Args: shards: a tar, a folder, a pattern or a list of these. Of several captions of a sample one
        is drawn by (seed, sample). size, how, max_pixels, max_bad, max_words: see `CaptionDataset`.

    A sample without a caption, with a blank or a too long one, or with a bad image is counted in
    `health`, logged and replaced by the next good one.

    Raises FileNotFoundError and ValueError as `ShardSet` does.
    """

    def __init__(
        self,
        shards: str | list[str],
        size: int = 224,
        how: str = "squash",
        max_pixels: float = MAX_PIXELS,
        max_bad: float = 0.01,
        max_words: int = 100,
        seed: int = 0,
    ) -> None:
        self.shards = ShardSet(shards)
        self.size, self.how, self.max_pixels = size, how, max_pixels
        self.max_words, self.seed = max_words, seed
        self.ann_file = str(shards)
        self.health = DataHealth(max_bad=max_bad)

    @property
    def metainfo(self) -> dict[str, Any]:
        """What MMEngine hands to the metric."""
        return {"task": "captioning", "ann_file": self.ann_file}

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`inputs` [3,size,size] uint8 and `data_samples` with `image` and `caption`."""
        skipped: list[BadSample] = []
        for step in range(min(TRIES, len(self))):
            at = (index + step) % len(self)
            shard, key = str(self.shards.paths[self.shards.locate(at)[0]]), ""
            try:
                raw = self.shards.read(at)
                key = raw.key
                caption = self._caption(stored_captions(raw), at)
                image = decode(raw.image, self.max_pixels)
            except (BadImage, BadCaption, OSError) as error:
                reason = "cannot be read" if isinstance(error, OSError) else str(error)
                skipped.append(BadSample(shard, key, reason))
                print_log(f"{shard} {key}: {reason}; the next sample is used", "current")
                continue
            self.health.update(skipped, seen=1)
            meta = {"image": f"{Path(shard).stem}:{key}", "caption": caption}
            return {
                "inputs": eval_resize(image, self.size, self.how),
                "data_samples": BaseDataElement(metainfo=meta),
            }
        first = skipped[0]
        raise ValueError(
            f"{len(skipped)} samples in a row cannot be used, from {first.shard} {first.key} on:"
            f" {first.reason}"
        )

    def _caption(self, captions: list[str], index: int) -> str:
        drawn = np.random.default_rng((self.seed, index)).integers(len(captions))
        if len(captions[drawn].split()) > self.max_words:
            raise BadCaption(f"caption of more than {self.max_words} words")
        return captions[drawn]
