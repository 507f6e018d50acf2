"""Image-caption pairs for training, images with all their references for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import Dataset

from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.data.health import DataHealth
from sparc_pretrain.data.images import MAX_PIXELS, BadImage, decode, eval_resize
from sparc_pretrain.registry import DATASETS
from sparc_pretrain.types import BadSample
from sparc_pretrain.zeroshot.given_boxes import read_boxes

TRIES = 20  # neighbours looked at in place of an image that cannot be used


class ImageItems(Dataset):
    """Images with texts, and what is done about a bad image.

    Args: ann_file: what the items were read from; folder: of the images; items: (file name, texts)
        of each. The others: see `CaptionDataset`.

    Raises FileNotFoundError when the first image is not there.
    """

    def __init__(
        self,
        ann_file: str,
        folder: Path,
        items: list[tuple[str, list[str]]],
        size: int = 224,
        test_mode: bool = False,
        how: str = "squash",
        max_pixels: float = MAX_PIXELS,
        max_bad: float = 0.01,
    ) -> None:
        self.ann_file, self.folder, self.items = ann_file, folder, items
        self.size, self.how, self.test_mode, self.max_pixels = size, how, test_mode, max_pixels
        first = self.folder / self.items[0][0]
        if not first.is_file():
            raise FileNotFoundError(f"no image {first}, the first one that {self.ann_file} names")
        self.health = DataHealth(max_bad=max_bad)

    @property
    def metainfo(self) -> dict[str, Any]:
        """What MMEngine hands to the metric."""
        return {
            "task": "captioning",
            "ann_file": self.ann_file,
            "folder": str(self.folder),
        }

    def __len__(self) -> int:
        return len(self.items)

    def _good_image(self, index: int) -> tuple[Tensor, int]:
        """The image of item `index`, or in training that of the next item that has a good one."""
        skipped: dict[str, BadSample] = {}
        for step in range(len(self.items)):
            at = (index + step) % len(self.items)
            name = self.items[at][0]
            if name in skipped:  # the next caption of the same image
                continue
            try:
                image = decode((self.folder / name).read_bytes(), self.max_pixels)
            except (BadImage, OSError) as error:
                reason = str(error) if isinstance(error, BadImage) else "cannot be read"
                if self.test_mode:
                    raise ValueError(f"{self.folder / name}: {reason}") from error
                print_log(f"{self.folder / name}: {reason}; the next image is used", "current")
                skipped[name] = BadSample(str(self.folder), name, reason)
                if len(skipped) == TRIES:
                    break
                continue
            self.health.update(list(skipped.values()), seen=1)
            return eval_resize(image, self.size, self.how), at
        first = next(iter(skipped.values()))
        raise ValueError(
            f"{len(skipped)} images in a row cannot be used, from {self.folder / first.key} on:"
            f" {first.reason}"
        )


@DATASETS.register_module()
class CaptionDataset(ImageItems):
    """A caption file and a folder of images; nothing random (no flips: captions say left, right).

    An item is `inputs` [3,size,size] uint8 and a `data_samples` with `image` (file name) and, in
    training, `caption`: one item per caption; with `test_mode`, `references`: one item per image,
    all its captions. Images whose captions are all blank are left out.

    Args:
        ann_file: COCO captions JSON, or any file that `read_captions` knows.
        data_prefix: `dict(img=FOLDER)`; both are below `data_root`.
        size: side of the images in pixels. how: 'squash' keeps all content, 'crop' the proportions.
        split: of a Karpathy file. max_pixels: larger images are refused.
        max_bad: share of bad images (of at least 1,000 items, per loader process) that stops
            training.
        max_words: longer captions are left out of training, and counted.
        boxes: COCO-like file, below `data_root`: data samples have `regions` [n,4], x0 y0 x1 y1 in
            0..1 of the image as it is seen, and `names`, their classes (see `FusionCaptioner`).

    A bad image stops an evaluation with a ValueError that names it (a score over fewer images is
    another score); in training it is logged, counted in `health` and replaced by the next good one.

    Raises:
        FileNotFoundError: no such file, folder or first image. ValueError: no captions.
    """

    def __init__(
        self,
        ann_file: str,
        data_prefix: Mapping[str, str],
        data_root: str = "",
        size: int = 224,
        test_mode: bool = False,
        how: str = "squash",
        split: str | None = None,
        max_pixels: float = MAX_PIXELS,
        max_bad: float = 0.01,
        max_words: int = 100,
        boxes: str | None = None,
    ) -> None:
        path = str(Path(data_root) / ann_file)
        found = read_captions(path, split)
        captions = {name: texts for name, texts in found.items() if texts}
        if len(captions) < len(found):
            left_out = len(found) - len(captions)
            print_log(f"{path}: {left_out} images have no caption, left out", "current")
        if test_mode:
            items = list(captions.items())
        else:
            every = [(name, [text]) for name, texts in captions.items() for text in texts]
            items = [item for item in every if len(item[1][0].split()) <= max_words]
            if len(items) < len(every):
                left_out = len(every) - len(items)
                print_log(
                    f"{path}: {left_out} captions have over {max_words} words, left out", "current"
                )
            if not items:
                raise ValueError(f"{path}: every caption has more than {max_words} words")
        folder = Path(data_root) / data_prefix["img"]
        super().__init__(path, folder, items, size, test_mode, how, max_pixels, max_bad)
        self.boxes = read_boxes(Path(data_root) / boxes) if boxes else None
        if boxes and not self.boxes.sizes:
            raise ValueError(f"{Path(data_root) / boxes}: its images say no width and height")

    @property
    def lengths(self) -> list[int]:
        """Words of each item's caption, for batches of like lengths."""
        return [len(texts[0].split()) for _, texts in self.items]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`inputs` and `data_samples`, see the class; works with MMEngine's default collate."""
        image, index = self._good_image(index)
        name, texts = self.items[index]
        text = {"references": texts} if self.test_mode else {"caption": texts[0]}
        if self.boxes is not None:
            file = Path(name).name
            seen = self.boxes.seen(file, self.boxes.sizes.get(file, (1, 1)), self.how)
            text |= dict(zip(("regions", "names"), seen, strict=True))
        return {
            "inputs": image,
            "data_samples": BaseDataElement(metainfo={"image": name, **text}),
        }
