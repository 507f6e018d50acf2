"""The detections of a whole set as arrays, and their average precision class by class: what is made
into Python's dicts for the matching is never more than `GROUP` detections.

AP of a class needs no other class once the limits (per image, per class) are applied, so that the
numbers are those of `metrics.evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.detection.metrics import Json, matched, summary

GROUP = 200_000  # detections that are matched at a time: some hundred megabytes of dicts


class Detections:
    """Detections of one kind of all images.

    Args:
        entries: of `DetectionMetric`, one per image: `image_id`, `labels` [N], `scores` [N],
            `bboxes` [N,4] xyxy or `masks` (`run_lengths.Packed`) with `mask_scores` [N].
        category_ids: of each label. iou_type: 'bbox' or 'segm'.

    Attributes:
        image: [M] place of the detection's image in `entries`. category, score: [M].
    """

    def __init__(self, entries: Sequence[dict], category_ids: Sequence[int], iou_type: str) -> None:
        self.entries, self.iou_type = entries, iou_type
        key = "scores" if iou_type == "bbox" else "mask_scores"
        counts = [len(entry["labels"]) for entry in entries]
        self.image = np.repeat(np.arange(len(entries), dtype=np.int32), counts)
        self.place = _joined([np.arange(n, dtype=np.int32) for n in counts], np.int32)
        labels = _joined([entry["labels"] for entry in entries], int)
        self.category = np.asarray(category_ids)[labels] if len(labels) else labels
        self.score = _joined([entry[key] for entry in entries], float)
        self._corners: np.ndarray | None = None  # [M,4]

    def __len__(self) -> int:
        return len(self.image)

    def best_of_each_image(self, limit: int) -> np.ndarray:
        """[M] bool: the `limit` best of each image; of equal scores the first."""
        kept = np.ones(len(self), dtype=bool)
        ends = np.cumsum([len(entry["labels"]) for entry in self.entries])
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            if end - start > limit:
                order = np.argsort(-self.score[start:end], kind="stable")
                kept[start + order[limit:]] = False
        return kept

    def best_of_each_class(self, limit: int) -> np.ndarray:
        """[M] bool: the `limit` best of each class over all images; of equal scores the first."""
        kept = np.ones(len(self), dtype=bool)
        order = np.lexsort((-self.score, self.category))  # stable: the last key first
        found = self.category[order]
        first = np.searchsorted(found, found, side="left")
        kept[order[np.arange(len(order)) - first >= limit]] = False
        return kept

    def rows(self, which: np.ndarray) -> Iterator[Json]:
        """Those at the places `which`, ascending, in COCO's result format."""
        images = self.image[which]
        cuts = np.flatnonzero(np.diff(images)) + 1
        for some in np.split(which, cuts) if len(which) else ():
            entry, places = self.entries[self.image[some[0]]], self.place[some]
            if self.iou_type == "bbox":
                corners = np.asarray(entry["bboxes"], dtype=float)[places]
                sizes = corners[:, 2:] - corners[:, :2]
                key, shapes = "bbox", np.concatenate([corners[:, :2], sizes], 1).tolist()
            else:
                key, shapes = "segmentation", entry["masks"].rles(places)
            for i, shape in zip(some, shapes, strict=True):
                yield {
                    "image_id": entry["image_id"],
                    "category_id": self.category[i].item(),
                    "score": float(self.score[i]),
                    key: shape,
                }

    def boxes(self, which: np.ndarray, image_ids: np.ndarray) -> np.ndarray:
        """Those at the places `which` as `metrics.BOX` [len(which),7]; image_ids: of `entries`."""
        if self._corners is None:
            entries = [np.asarray(one["bboxes"], float).reshape(-1, 4) for one in self.entries]
            self._corners = np.concatenate([*entries, np.zeros((0, 4))])
        corners = self._corners[which]
        columns = [image_ids[self.image[which], None], corners[:, :2]]
        columns += [corners[:, 2:] - corners[:, :2], self.score[which, None]]
        return np.concatenate([*columns, self.category[which, None]], axis=1, dtype=float)

    def groups(self, categories: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Categories together with the places of their detections, about `GROUP` at a time."""
        order = np.argsort(self.category, kind="stable")
        found = self.category[order]
        some: list[int] = []
        places: list[np.ndarray] = []
        for category in categories:
            left, right = (np.searchsorted(found, category, side) for side in ("left", "right"))
            if some and sum(map(len, places)) + right - left > GROUP:
                yield some, np.sort(np.concatenate(places))
                some, places = [], []
            some.append(category)
            places.append(order[left:right])
        if some:
            yield some, np.sort(np.concatenate(places))


def average_precision(
    truth: Json,
    found: Detections,
    style: str,
    protocols: Mapping[str, tuple[np.ndarray, int]],
) -> dict[str, dict[str, float]]:
    """`metrics.evaluate`'s values for each of `protocols`, see `precisions`."""
    told = precisions(truth, found, style, protocols)
    return {name: summary(*one, truth, style) for name, one in told.items()}


def precisions(
    truth: Json,
    found: Detections,
    style: str,
    protocols: Mapping[str, tuple[np.ndarray, int]],
) -> dict[str, tuple[np.ndarray, list[int]]]:
    """`metrics.matched` of all categories for each of `protocols`: which detections count [M] bool,
    and how many of an image (LVIS) or of a class in an image (COCO).

    Raises ValueError as `metrics.evaluate` does.
    """
    categories = [row["id"] for row in truth["categories"]]
    precision: dict[str, list[np.ndarray]] = {name: [] for name in protocols}
    order: list[int] = []
    of_category: dict[Any, list[Json]] = {}
    for row in truth["annotations"]:
        of_category.setdefault(row["category_id"], []).append(row)
    listed = {row["id"]: row for row in truth["categories"]}
    by_id = {row["id"]: row for row in truth["images"]}
    ids = [entry["image_id"] for entry in found.entries]
    as_table = found.iou_type == "bbox" and all(isinstance(i, int) for i in (*by_id, *ids))
    numbers = np.array(ids, dtype=float) if as_table else np.zeros(0)
    for some, places in found.groups(categories):
        annotations = [row for category in some for row in of_category.get(category, ())]
        seen = {row["image_id"] for row in annotations} | {ids[i] for i in set(found.image[places])}
        part = {
            **truth,
            # without any image there is nothing to match, and hotcoco wants one
            "images": [row for i, row in by_id.items() if i in seen] or truth["images"][:1],
            "categories": [listed[category] for category in some],
            "annotations": annotations,
        }
        for name, (counts, limit) in protocols.items():
            which = places[counts[places]]
            rows = found.boxes(which, numbers) if as_table else list(found.rows(which))
            values, categories_found = matched(part, rows, found.iou_type, style, limit)
            precision[name].append(values)
        order += categories_found
    return {name: (np.concatenate(parts, axis=2), order) for name, parts in precision.items()}


def _joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, kind)
