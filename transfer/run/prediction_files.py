"""What tools/predict.py leaves beside pictures: COCO results of a detector, label maps of a
segmentor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sparc_pretrain import json_file
from sparc_pretrain.atomic_file import atomic_write
from transfer.detection.evaluator import coco_rows
from transfer.detection.run_lengths import encode

RESULTS, LISTED = "predictions.json", "predictions_images.json"


class CocoResults:
    """OUT_DIR/predictions.json: detections of all photographs in COCO's result format, written as
    they come, and OUT_DIR/predictions_images.json, a COCO file of the images and categories that
    their ids mean.

    Args:
        folder: OUT_DIR. classes: names in the order of labels. annotations: a COCO file whose ids
            of images (by file name) and categories (by name) are used, so that the results can be
            evaluated against it; None = both are numbered from 1.

    Raises:
        FileNotFoundError, ValueError: no such file; it does not list a class.
    """

    def __init__(
        self, folder: str | Path, classes: Sequence[str], annotations: str | None = None
    ) -> None:
        self.folder, self.count = Path(folder), 0
        self.categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
        self.images: list[dict[str, Any]] = []
        self.known: dict[str, Any] | None = None
        if annotations is not None:
            content = json_file.read(annotations)
            ids = {row["name"]: row["id"] for row in content["categories"]}
            if unknown := [name for name in classes if name not in ids]:
                raise ValueError(f"{annotations} has no category {unknown[:5]} of the model")
            self.categories = [{"id": ids[name], "name": name} for name in classes]
            self.known = {row["file_name"]: row["id"] for row in content["images"]}
            self.source = annotations
        self.folder.mkdir(parents=True, exist_ok=True)
        self.part = self.folder / f"{RESULTS}.part"  # of a run that was stopped
        self.file = self.part.open("w", encoding="utf-8")
        self.file.write("[")

    def add(self, path: Path, sample: Any) -> None:
        """The detections on one photograph, those below `--score-thr` too.

        Raises:
            ValueError: the model predicts no instances; the annotation file has no such image.
        """
        found = sample.get("pred_instances")
        if found is None or "bboxes" not in found:
            raise ValueError("--json is for detectors; of a segmentor, --maps writes label maps")
        height, width = sample.ori_shape
        image = self._id(path)
        self.images.append(
            {"id": image, "file_name": str(path), "height": int(height), "width": int(width)}
        )
        entry = {
            "image_id": image,
            "labels": found.labels.cpu().numpy(),
            "scores": found.scores.double().cpu().numpy(),
            "bboxes": found.bboxes.double().cpu().numpy().reshape(-1, 4),
        }
        ids = [row["id"] for row in self.categories]
        rows = coco_rows([entry], ids, "bbox")
        if "masks" in found:
            for row, mask in zip(rows, encode(found.masks, found.bboxes), strict=True):
                row["segmentation"] = mask
        for row in rows:
            self.file.write(("," if self.count else "") + "\n" + json.dumps(row))
            self.count += 1

    def _id(self, path: Path) -> Any:
        if self.known is None:
            return len(self.images) + 1
        for name in (str(path), path.name, "/".join(path.parts[-2:])):
            if name in self.known:
                return self.known[name]
        raise ValueError(f"{self.source} lists no image {path.name}")

    def close(self) -> None:
        """Put both files in place."""
        self.file.write("\n]\n")
        self.file.close()
        os.replace(self.part, self.folder / RESULTS)
        listed = {"images": self.images, "categories": self.categories, "annotations": []}
        atomic_write(self.folder / LISTED, lambda file: file.write(json.dumps(listed).encode()))


def label_map(sample: Any, path: Path) -> None:
    """A segmentor's classes as a PNG of one number a pixel, of the photograph's size.

    Raises:
        ValueError: the model predicts no label map.
    """
    found = sample.get("pred_sem_seg")
    if found is None:
        raise ValueError("--maps is for segmentors; of a detector, --json writes COCO results")
    labels = found.data.squeeze(0).cpu().numpy()
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(kind)).save(path)
