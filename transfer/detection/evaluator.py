"""mmdet predictions -> COCO result files -> average precision, inside an MMEngine Runner."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from sparc_pretrain.registry import METRICS
from transfer.detection.metrics import DECLARED, DEFAULT_MAX_DETS, evaluate


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """COCO or LVIS average precision of an mmdet model, as `style/iou_type_AP`: `coco/bbox_AP50`.

    Args:
        ann_file: the annotation file, COCO or LVIS format. Labels are mapped to its category ids by
            the names in the dataset's `metainfo['classes']`.
        style: 'coco' or 'lvis'. iou_types: of 'bbox' and 'segm'.
        max_dets: see `metrics.evaluate`; the model's own limit (`test_cfg.max_per_img`) is apart.
        outfile_prefix: where `PREFIX.bbox.json` and `PREFIX.segm.json`, the results in COCO format,
            are kept; None = nowhere.

    Raises:
        FileNotFoundError: no such annotation file.
        ValueError: unknown style or iou type; at evaluation, classes that do not match the
            annotation file, a model without masks asked for 'segm', scores that are not finite.
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

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep one entry per image: `pred_instances` {bboxes [N,4] xyxy in pixels of the original
        image, scores [N], labels [N], masks [N,H,W] bool or N RLEs} and `img_id`.
        """
        for sample in data_samples:
            found = sample["pred_instances"]
            entry = {
                "image_id": int(sample["img_id"]),
                "labels": found["labels"].detach().cpu().numpy(),
                "scores": found["scores"].detach().cpu().double().numpy(),
                "bboxes": found["bboxes"].detach().cpu().double().numpy().reshape(-1, 4),
            }
            if "segm" in self.iou_types:
                if "masks" not in found:
                    raise ValueError("the model predicts no masks: use iou_types=('bbox',)")
                entry["masks"] = encode(found["masks"])
                # some heads score the mask apart from the box (Mask Scoring R-CNN)
                mask_scores = found.get("mask_scores", found["scores"])
                entry["mask_scores"] = mask_scores.detach().cpu().double().numpy()
            self.results.append(entry)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """`{iou_type_NAME: value}` for each of `iou_types`, see `metrics.evaluate`."""
        truth = json.loads(Path(self.ann_file).read_text(encoding="utf-8"))
        category_ids = self.category_ids(truth)
        unseen = {image["id"] for image in truth["images"]} - {row["image_id"] for row in results}
        if unseen:
            print_log(
                f"{len(unseen)} of {len(truth['images'])} images of {self.ann_file} were not"
                " predicted; they count as images without detections",
                "current",
                level=30,
            )
        values = {}
        with tempfile.TemporaryDirectory() as scratch:
            prefix = Path(self.outfile_prefix or Path(scratch) / "results")
            prefix.parent.mkdir(parents=True, exist_ok=True)
            for iou_type in self.iou_types:
                path = Path(f"{prefix}.{iou_type}.json")
                path.write_text(json.dumps(coco_rows(results, category_ids, iou_type)))
                found = evaluate(truth, path, iou_type, self.style, self.max_dets)
                values.update({f"{iou_type}_{name}": value for name, value in found.items()})
        return values

    def category_ids(self, truth: dict) -> list[int]:
        """Label -> category id, by name.

        Raises ValueError when the classes of the dataset are unknown, or are not those of the
        annotation file in its order: mmdet numbers labels in the file's order whatever the order of
        `classes`, so another order would give a wrong name to every label.
        """
        classes = (self.dataset_meta or {}).get("classes")
        if not classes:
            raise ValueError("labels have no names: give the dataset metainfo=dict(classes=...)")
        ids = {row["name"]: row["id"] for row in truth["categories"]}
        unknown = [name for name in classes if name not in ids]
        if unknown:
            raise ValueError(
                f"{self.ann_file} has no category {unknown[:5]} ({len(unknown)} of {len(classes)}"
                " classes of the dataset are missing): set metainfo=dict(classes=...) to its names"
            )
        annotated = {row["category_id"] for row in truth["annotations"]}
        left_out = [n for n, i in ids.items() if i in annotated and n not in set(classes)]
        if left_out:
            raise ValueError(
                f"{self.ann_file} annotates {left_out[:5]} ({len(left_out)} categories),"
                " which are not among the dataset's classes: evaluate against a file without them"
            )
        if list(classes) != [name for name in ids if name in set(classes)]:
            raise ValueError(
                f"the dataset's classes are in another order than those of {self.ann_file};"
                " mmdet numbers labels in the file's order: list the classes in that order"
            )
        return [ids[name] for name in classes]


def encode(masks: torch.Tensor | Sequence[dict]) -> list[dict]:
    """Masks [N,H,W], or RLEs, -> RLEs whose counts are text, as JSON needs them."""
    if isinstance(masks, torch.Tensor):
        stack = masks.detach().cpu().numpy().astype(np.uint8)
        masks = [hotcoco.mask.encode(np.asfortranarray(one)) for one in stack]
    return [
        {**rle, "counts": c.decode() if isinstance(c := rle["counts"], bytes) else c}
        for rle in masks
    ]


def coco_rows(results: Sequence[dict], category_ids: Sequence[int], iou_type: str) -> list[dict]:
    """The results of all images in COCO's format: boxes [x, y, width, height] or RLE masks."""
    rows = []
    for entry in results:
        for index, label in enumerate(entry["labels"]):
            row = {"image_id": entry["image_id"], "category_id": category_ids[label]}
            if iou_type == "bbox":
                x1, y1, x2, y2 = entry["bboxes"][index].tolist()
                row |= {"score": float(entry["scores"][index]), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            else:
                row["score"] = float(entry["mask_scores"][index])
                row["segmentation"] = entry["masks"][index]
            rows.append(row)
    return rows
