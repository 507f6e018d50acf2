"""Fixed AP of large vocabularies beside the ordinary one (Dave et al., "Evaluating
Large-Vocabulary Object Detectors: The Devil is in the Details", arXiv 2102.01066, sec. 4).

Ordinary LVIS AP keeps 300 detections per image, so classes compete for places and a detector gains
by leaving rare ones out. Fixed AP keeps the 10,000 best detections of each class over the whole
data set, and as many per image as there are. The two differ by points: always say which.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from sparc_pretrain.registry import METRICS
from transfer.detection.detections import Detections
from transfer.detection.evaluator import DetectionMetric
from transfer.detection.metrics import evaluate

PER_CLASS = 10_000
Json = dict[str, Any]


def best_per_class(rows: list[Json], limit: int = PER_CLASS) -> list[Json]:
    """The `limit` best-scored rows of each `category_id` over all images; of equal scores the first
    come first.
    """
    of_class: dict[int, list[Json]] = defaultdict(list)
    for row in rows:
        of_class[row["category_id"]].append(row)
    return [
        row
        for own in of_class.values()
        for row in sorted(own, key=lambda row: row["score"], reverse=True)[:limit]
    ]


def fixed_ap(
    truth: Json, rows: list[Json], iou_type: str = "bbox", per_class: int = PER_CLASS
) -> dict[str, float]:
    """AP, APr, APc, APf ... by LVIS's rules, as `metrics.evaluate` names them, but of the
    `per_class` best detections of each class and without a limit per image.

    truth: LVIS annotations. rows: detections in COCO's result format. Raises as `evaluate`.
    """
    kept = best_per_class(rows, per_class)
    return evaluate(truth, kept, iou_type, "lvis", max_dets=max(len(kept), 1))


@METRICS.register_module()
class FixedDetectionMetric(DetectionMetric):
    """`DetectionMetric` in LVIS style, and the same numbers by Fixed AP: `lvis/bbox_AP` beside
    `lvis/bbox_fixed_AP`.

    The ordinary numbers keep `max_dets` (300) per image. For the fixed ones the model must give
    more than that: set `model.test_cfg.max_per_img` to 1,000 or more; what it leaves out, no
    protocol can bring back.
    """

    def __init__(self, ann_file: str, per_class: int = PER_CLASS, **options: Any) -> None:
        super().__init__(ann_file, **{"style": "lvis", **options})
        if self.style != "lvis":
            raise ValueError("Fixed AP is defined for style='lvis': use sparc.DetectionMetric")
        self.most_per_class = per_class

    def protocols(self, found: Detections) -> dict[str, tuple[np.ndarray, int]]:
        """Both, of one pass over the detections."""
        kept = found.best_of_each_class(self.most_per_class)
        return {**super().protocols(found), "fixed_": (kept, max(int(kept.sum()), 1))}
