"""Data of open-vocabulary detection: boxes with names, and what is known not to be there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from mmengine.logging import print_log

from sparc_pretrain.registry import DATASETS
from transfer.detection.mmdet_bases import CocoDataset
from transfer.detection.open_vocabulary.files import held_out, image_file, read_truth


class Vocabulary:
    """Class names with how many images have them; one object for a whole data set, never copied."""

    def __init__(self, names: Sequence[str], counts: Sequence[int]) -> None:
        self.names, self.counts = tuple(names), np.asarray(counts, dtype=np.float64)
        self.index = {name: i for i, name in enumerate(self.names)}

    def __deepcopy__(self, memo: dict) -> Vocabulary:
        return self  # mmdet copies every sample it mixes; tens of thousands of names are not cheap

    def draw(self, count: int, without: set[str]) -> list[str]:
        """Up to `count` different names that are not in `without`, the frequent ones more often
        (Zhou et al., arXiv 2104.10395, as OWL-ViT, app. A1.6).
        """
        weights = self.counts.copy()
        weights[[self.index[name] for name in without if name in self.index]] = 0
        count = min(count, np.count_nonzero(weights))
        if not count:
            return []
        picked = np.random.choice(len(weights), count, replace=False, p=weights / weights.sum())
        return [self.names[i] for i in picked]

    def joined(self, other: Vocabulary) -> Vocabulary:
        """Names of both; one that both have counts in both."""
        if other is self or other.names == self.names:
            return self
        new = [name for name in other.names if name not in self.index]
        joined = Vocabulary([*self.names, *new], [*self.counts, *np.zeros(len(new))])
        joined.counts[[joined.index[name] for name in other.names]] += other.counts
        return joined


@DATASETS.register_module()
class OpenVocabularyDataset(CocoDataset):
    """COCO, LVIS, Objects365 or Visual Genome boxes, see `open_vocabulary_files.read_truth`.

    Without `metainfo.classes` the classes are all categories of the file, in its order. Every
    sample brings `vocabulary` and `federated`, one entry of `{region: None, positive, negative,
    partial}`: names that are in the image, that are known not to be, and those whose objects are
    not all marked. With `test_mode`, every sample brings the class names as `text`.

    Args:
        leave_out_frequency, leave_out_names: categories that are neither shown nor asked for, see
            `held_out`; the open-vocabulary protocol leaves out LVIS's rare ones in training.
        exhaustive: True = what is not marked is not there (COCO, Objects365). False = only
            `neg_category_ids` is known not to be there (LVIS, Visual Genome). None = False where
            the file has that field.
        others: see CocoDataset.

    Raises:
        FileNotFoundError, ValueError: see `read_truth` and `held_out`; classes that are not in the
            file.
    """

    METAINFO: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        *args: Any,
        leave_out_frequency: Sequence[str] = (),
        leave_out_names: str | Sequence[str] = (),
        exhaustive: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.leave_out = (tuple(leave_out_frequency), leave_out_names)
        self.exhaustive = exhaustive
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """One record per image, in the file's order."""
        truth = read_truth(self.ann_file)
        left = held_out(truth, self.ann_file, *self.leave_out)
        wanted = self._metainfo.get("classes")
        names = {row["name"] for row in truth["categories"]}
        if wanted is not None and (unknown := [name for name in wanted if name not in names]):
            raise ValueError(
                f"{self.ann_file} has no category {unknown[:5]} ({len(unknown)} of the"
                f" {len(wanted)} in metainfo.classes)"
            )
        kept = [
            row
            for row in truth["categories"]
            if row["id"] not in left and (wanted is None or row["name"] in set(wanted))
        ]
        classes = tuple(dict.fromkeys(row["name"] for row in kept))
        place = {name: label for label, name in enumerate(classes)}
        self.cat2label = {row["id"]: place[row["name"]] for row in kept}
        self.cat_ids = list({label: i for i, label in reversed(self.cat2label.items())}.values())
        self._metainfo["classes"] = classes
        if self.exhaustive is None:
            self.exhaustive = not any("neg_category_ids" in row for row in truth["images"])
        of_image: dict[Any, list[dict]] = {row["id"]: [] for row in truth["images"]}
        for row in truth["annotations"]:
            if row["category_id"] in self.cat2label:
                of_image[row["image_id"]].append(row)
        records = [self._record(row, of_image[row["id"]]) for row in truth["images"]]
        counts = np.zeros(len(classes))
        for record in records:
            counts[record["positive"]] += 1
        self.vocabulary = Vocabulary(classes, counts)
        if left:
            gone = sum(row["category_id"] in left for row in truth["annotations"])
            said = f"{self.ann_file}: {gone} boxes of {len(left)} categories left out"
            print_log(said, "current")
        return records

    def _record(self, image: dict, annotations: list[dict]) -> dict:
        instances = []
        for row in annotations:
            x, y, w, h = row["bbox"]
            wide = min(x + w, image["width"]) - max(x, 0)
            high = min(y + h, image["height"]) - max(y, 0)
            if row.get("ignore") or wide <= 0 or high <= 0 or w < 1 or h < 1:
                continue
            instances.append(
                {
                    "bbox": [x, y, x + w, y + h],
                    "bbox_label": self.cat2label[row["category_id"]],
                    "ignore_flag": int(bool(row.get("iscrowd"))),
                }
            )
        labels = {
            key: sorted({self.cat2label[i] for i in image.get(field, ()) if i in self.cat2label})
            for key, field in (
                ("negative", "neg_category_ids"),
                ("partial", "not_exhaustive_category_ids"),
            )
        }
        return {
            "img_id": image["id"],
            "img_path": f"{self.data_prefix['img'].rstrip('/')}/{image_file(image)}",
            "height": image["height"],
            "width": image["width"],
            "instances": instances,
            "positive": sorted({self.cat2label[row["category_id"]] for row in annotations}),
            **labels,
        }

    def filter_data(self) -> list[dict]:
        """`filter_cfg`: `filter_empty_gt` drops images without a box (after what is left out),
        `min_size` those with a shorter side.
        """
        rules = {} if self.test_mode else self.filter_cfg or {}
        return [
            row
            for row in self.data_list
            if min(row["width"], row["height"]) >= rules.get("min_size", 0)
            and (row["instances"] or not rules.get("filter_empty_gt", False))
        ]

    def get_data_info(self, idx: int) -> dict:
        """A record with names in the place of labels, see the class."""
        record = super().get_data_info(idx)
        names = self.vocabulary.names
        labels = {key: record.pop(key) for key in ("positive", "negative", "partial")}
        if self.exhaustive:
            labels["negative"] = sorted(set(range(len(names))) - set(labels["positive"]))
        known = {key: tuple(names[i] for i in value) for key, value in labels.items()}
        record.update(vocabulary=self.vocabulary, federated=[{"region": None, **known}])
        if self.test_mode:
            record["text"] = names
        return record
