"""mmdet predictions -> COCO result files -> average precision, inside an MMEngine Runner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from sparc_pretrain.command.cli import nearest
from sparc_pretrain.data.coco_file import CocoFile, read_coco
from sparc_pretrain.registry import METRICS
from transfer.detection.detections import Detections, precisions
from transfer.detection.metrics import (
    DECLARED,
    DEFAULT_MAX_DETS,
    by_class,
    check_ground_truth,
    collector_paused,
    summary,
)
from transfer.detection.run_lengths import Shelf, encode
from transfer.mm.annotations import names_once


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """COCO or LVIS average precision of an mmdet model, as `style/iou_type_AP`: `coco/bbox_AP50`.

    Args:
        ann_file: the annotation file, COCO or LVIS format. Labels are mapped to its category ids by
            the names in the dataset's `metainfo['classes']`.
            Where they are some of its categories, those alone are judged.
        style: 'coco' or 'lvis'. iou_types: of 'bbox' and 'segm'.
        max_dets: see `metrics.evaluate`; the model's own limit (`test_cfg.max_per_img`) is apart.
        outfile_prefix: where `PREFIX.bbox.json` and `PREFIX.segm.json`, the results in COCO format,
            are kept; None = nowhere.

    Raises:
        FileNotFoundError: no such annotation file.
        ValueError: unknown style or iou type; before training (`check`), classes that do not match
            the annotation file; at evaluation, a model without masks asked for 'segm', scores that
            are not finite.
    """

    declared = DECLARED

    def __init__(
        self,
        ann_file: str,
        style: Literal["coco", "lvis"] = "coco",
        iou_types: Sequence[str] = ("bbox",),
        max_dets: int | None = None,
        outfile_prefix: str | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        if style not in DEFAULT_MAX_DETS:
            raise ValueError(f"style is 'coco' or 'lvis', not {style!r}")
        iou_types = (iou_types,) if isinstance(iou_types, str) else tuple(iou_types)
        if not iou_types or set(iou_types) - {"bbox", "segm"}:
            raise ValueError(f"iou_types are of 'bbox' and 'segm', not {iou_types}")
        if not Path(ann_file).is_file():
            raise FileNotFoundError(f"no annotation file {ann_file}; give ann_file=... of the set")
        super().__init__(collect_device=collect_device, prefix=prefix or style)
        self.ann_file, self.style, self.iou_types = ann_file, style, iou_types
        self.max_dets, self.outfile_prefix = max_dets, outfile_prefix
        self.shelf = Shelf()
        self._truth: CocoFile | None = None
        self.per_class: dict[str, dict[str, float]] = {}  # of the last evaluation, for its record

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep one entry per image: `pred_instances` {bboxes [N,4] xyxy in pixels of the original
        image, scores [N], labels [N], masks [N,H,W] bool or N RLEs} and `img_id`.
        """
        for sample in data_samples:
            found = sample["pred_instances"]
            entry = {
                "image_id": _plain(sample["img_id"]),
                "labels": found["labels"].detach().cpu().numpy().astype(np.int32),
                "scores": _floats(found["scores"]),
                "bboxes": _floats(found["bboxes"]).reshape(-1, 4),
            }
            if "segm" in self.iou_types:
                if "masks" not in found:
                    raise ValueError("the model predicts no masks: use iou_types=('bbox',)")
                boxes = found["bboxes"]
                entry["masks"] = self.shelf.pack(encode(found["masks"], boxes))
                # some heads score the mask apart from the box (Mask Scoring R-CNN)
                mask_scores = found.get("mask_scores", found["scores"])
                entry["mask_scores"] = _floats(mask_scores)
            self.results.append(entry)

    def check(self) -> None:
        """Reads the annotation file and compares it with the classes of the dataset; called before
        anything is trained. Raises ValueError as `evaluate` and `category_ids` do.
        """
        for iou_type in self.iou_types:
            check_ground_truth(self.of_classes(), iou_type, self.style, self.ann_file)

    @property
    def truth(self) -> CocoFile:
        """The annotation file, read once."""
        if self._truth is None:
            self._truth = read_coco(self.ann_file, boxes=False)
            if lost := len(self._truth.unlisted):
                print_log(
                    f"{lost} of {lost + len(self._truth.annotations)} annotations of "
                    f"{self.ann_file} are of images it does not list: they count nowhere",
                    "current",
                    level=30,
                )
        return self._truth

    def of_classes(self) -> dict[str, Any]:
        """The annotations that the dataset's classes are judged by: those of its categories, as
        pycocotools counts when it is given `catIds`; and those of listed images.
        """
        kept = set(self.category_ids())
        rows = [row for row in self.truth.annotations if row["category_id"] in kept]
        categories = [row for row in self.truth.categories if row["id"] in kept]
        return {**self.truth.content, "categories": categories, "annotations": rows}

    @collector_paused()
    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """`{iou_type_NAME: value}` for each of `iou_types`, see `metrics.evaluate`."""
        truth, category_ids = self.of_classes(), self.category_ids()
        unseen = {image["id"] for image in truth["images"]} - {row["image_id"] for row in results}
        if unseen:
            print_log(
                f"{len(unseen)} of {len(truth['images'])} images of {self.ann_file} were not"
                " predicted; they count as images without detections",
                "current",
                level=30,
            )
        values, self.per_class = {}, {}
        for iou_type in self.iou_types:
            found = Detections(results, category_ids, iou_type)
            check(found, truth, self.ann_file)
            if self.outfile_prefix is not None:
                write_rows(found, Path(f"{self.outfile_prefix}.{iou_type}.json"))
            told = precisions(truth, found, self.style, self.protocols(found))
            for protocol, one in told.items():
                numbers = summary(*one, truth, self.style)
                values |= {f"{iou_type}_{protocol}{name}": v for name, v in numbers.items()}
                self.per_class[f"{iou_type}_{protocol}AP"] = by_class(*one, truth)
        return values

    def protocols(self, found: Detections) -> dict[str, tuple[np.ndarray, int]]:
        """Prefix of a protocol's numbers -> which detections it counts, and its limit."""
        limit = DEFAULT_MAX_DETS[self.style] if self.max_dets is None else self.max_dets
        everything = np.ones(len(found), dtype=bool)
        kept = found.best_of_each_image(limit) if self.style == "lvis" else everything
        return {"": (kept, limit)}

    def evaluate(self, size: int) -> dict[str, float]:
        """As BaseMetric does, and what waits on disk goes."""
        try:
            return super().evaluate(size)
        finally:
            self.shelf.clear()

    def category_ids(self) -> list[int]:
        """Label -> category id, by name.

        Raises ValueError when the classes of the dataset are unknown, or are not those of the
        annotation file in its order: mmdet numbers labels in the file's order whatever the order of
        `classes`, so another order would give a wrong name to every label.
        """
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise ValueError("labels have no names: give the dataset metainfo=dict(classes=...)")
        names_once(self.truth.categories, classes, self.ann_file)
        ids = {row["name"]: row["id"] for row in self.truth.categories}
        unknown = [name for name in classes if name not in ids]
        if unknown:
            raise ValueError(
                f"{self.ann_file} has no category {unknown[:5]} ({len(unknown)} of {len(classes)}"
                f" classes of the dataset are missing){nearest(unknown[0], ids)}: set "
                "metainfo=dict(classes=...) to its names"
            )
        if list(classes) != [name for name in ids if name in set(classes)]:
            raise ValueError(
                f"the dataset's classes are in another order than those of {self.ann_file};"
                " mmdet numbers labels in the file's order: list the classes in that order"
            )
        return [ids[name] for name in classes]


def _floats(values: torch.Tensor) -> np.ndarray:
    """As float32, or as they are in float64."""
    values = values.detach().cpu()
    return (values if values.dtype == torch.float64 else values.float()).numpy()


def _plain(image: Any) -> int | str:
    """An image id as the annotation file has it: a number, or a text."""
    return image if isinstance(image, str) else int(image)


def check(found: Detections, truth: dict[str, Any], name: str) -> None:
    """Raises ValueError for detections that would give a wrong number."""
    listed = {row["id"]: row for row in truth["images"]}
    if not np.isfinite(found.score).all():
        raise ValueError(f"a detection has score {found.score[~np.isfinite(found.score)][0]}")
    for entry in found.entries:
        image = listed.get(entry["image_id"])
        if image is None:
            raise ValueError(
                f"image {entry['image_id']!r} was predicted, which {name} does not list; is it of "
                "another split?"
            )
        if found.iou_type == "bbox":
            if not np.isfinite(entry["bboxes"]).all():
                raise ValueError(f"image {entry['image_id']!r}: a box is not four numbers")
        elif len(entry["labels"]) and "height" in image:
            size = list(entry["masks"].size)
            if size != [image["height"], image["width"]]:
                raise ValueError(
                    f"image {entry['image_id']!r} has masks of {size}, {name} says "
                    f"{[image['height'], image['width']]} (height, width)"
                )


def write_rows(found: Detections, path: Path) -> None:
    """All detections in COCO's result format, image by image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for i, row in enumerate(found.rows(np.arange(len(found)))):
            file.write(("," if i else "") + "\n" + json.dumps(row))
        file.write("\n]\n")


def coco_rows(results: Sequence[dict], category_ids: Sequence[int], iou_type: str) -> list[dict]:
    """Entries in COCO's format: boxes [x, y, width, height] or RLE masks, a list of them each."""
    rows = []
    for entry in results:
        image = entry["image_id"]
        kinds = [category_ids[label] for label in entry["labels"].tolist()]
        if iou_type == "bbox":
            key, scores, corners = "bbox", entry["scores"].tolist(), entry["bboxes"]
            shapes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        else:
            key, scores, shapes = "segmentation", entry["mask_scores"].tolist(), entry["masks"]
        rows += [
            {"image_id": image, "category_id": kind, "score": score, key: shape}
            for kind, score, shape in zip(kinds, scores, shapes, strict=True)
        ]
    return rows
