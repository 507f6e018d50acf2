"""Images with examples before them: what a few-shot prompt is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement

from sparc_pretrain.registry import DATASETS
from transfer.captioning.data.dataset import CaptionDataset


@DATASETS.register_module()
class FewShotCaptionDataset(CaptionDataset):
    """A `CaptionDataset` whose items bring `shots` other images and their captions.

    An item is `inputs` [shots + 1,3,size,size], the item's own image last, and a `data_samples`
    with `shots`, the captions of those before it. The examples of an item depend on `seed` and its
    number alone, and never show the item's own image.

    Args:
        shots: 0, 4, 8, ... examples. source: `dict(ann_file=..., data_prefix=..., data_root=...)`
            of the images that the examples are drawn from: in an evaluation the training set. None
            = this set itself. seed: of the draw. kwargs: as for `CaptionDataset`.

    Raises ValueError where there are not more images than shots.
    """

    def __init__(
        self,
        *args: Any,
        shots: int = 0,
        source: Mapping[str, Any] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.shots, self.seed = shots, seed
        drawn = {"size": self.size, "how": self.how, "max_pixels": self.max_pixels}
        self.source = self
        if source is not None and shots:
            self.source = CaptionDataset(**{**drawn, **source})
        images = {name for name, _ in self.source.items}
        if len(images) <= shots:
            raise ValueError(
                f"{self.source.ann_file} has {len(images)} images, {shots} shots need more"
            )

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See the class."""
        item = super().__getitem__(index)
        sample: BaseDataElement = item["data_samples"]
        generator = np.random.default_rng((self.seed, index))
        taken = {sample.image} if self.source.folder == self.folder else set()
        pictures, captions = [], []
        while len(captions) < self.shots:
            at = int(generator.integers(len(self.source.items)))
            if self.source.items[at][0] in taken:
                continue
            picture, at = self.source._good_image(at)
            name, texts = self.source.items[at]
            if name in taken:  # a bad image was replaced by one that is shown already
                continue
            taken.add(name)
            pictures.append(picture)
            captions.append(texts[int(generator.integers(len(texts)))])
        sample.set_metainfo({"shots": captions})
        return {"inputs": torch.stack([*pictures, item["inputs"]]), "data_samples": sample}
