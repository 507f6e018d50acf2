"""Fixed AP: the best of each class over the whole set, whatever an image holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from transfer.detection.fixed_ap import FixedDetectionMetric, best_per_class, fixed_ap
from transfer.detection.metrics import evaluate


def truth(images: int = 2) -> dict:
    """`images` images with a cat (frequent) and a unicorn (rare) each."""
    boxes = {1: [0, 0, 10, 10], 2: [50, 50, 20, 20]}
    return {
        "images": [
            dict(id=i, width=100, height=100, neg_category_ids=[], not_exhaustive_category_ids=[])
            for i in range(1, images + 1)
        ],
        "categories": [
            dict(id=1, name="cat", frequency="f"),
            dict(id=2, name="unicorn", frequency="r"),
        ],
        "annotations": [
            dict(id=2 * i + c, image_id=i, category_id=c, bbox=box, area=box[2] * box[3])
            for i in range(1, images + 1)
            for c, box in boxes.items()
        ],
    }


def row(image: int, category: int, score: float, box: list[int]) -> dict:
    return dict(image_id=image, category_id=category, score=score, bbox=box)


def test_the_best_of_each_class_are_kept_over_all_images() -> None:
    rows = [row(i % 3, 1 + i % 2, (i * 7 % 20) / 20, [0, 0, 1, 1]) for i in range(20)]
    kept = best_per_class(rows, 4)
    for category in (1, 2):
        scores = sorted((r["score"] for r in rows if r["category_id"] == category), reverse=True)
        assert [r["score"] for r in kept if r["category_id"] == category] == scores[:4]


def test_a_rare_class_is_not_crowded_out_of_its_image() -> None:
    """400 confident false cats per image push the unicorn out of the 300 that ordinary AP keeps."""
    rows = [row(1, 1, 0.9, [80, 0, 9, 9]) for _ in range(400)]
    rows += [row(i, 2, 0.1, [50, 50, 20, 20]) for i in (1, 2)]
    ordinary, fixed = evaluate(truth(), rows, style="lvis"), fixed_ap(truth(), rows)
    assert ordinary["APr"] == pytest.approx(51 / 101)  # one of two objects
    assert fixed["APr"] == pytest.approx(1.0)
    assert fixed["APf"] == ordinary["APf"] == 0


def test_more_than_300_of_a_class_in_an_image_count() -> None:
    rows = [row(1, 2, 0.9, [0, 0, 5, 5]) for _ in range(999)] + [row(1, 2, 0.1, [50, 50, 20, 20])]
    # by hand: of two objects one is found, at precision 1/1000, up to recall 0.5: 51 of 101 points
    assert fixed_ap(truth(), rows)["APr"] == pytest.approx(51 / 101 / 1000)
    assert fixed_ap(truth(), rows, per_class=999)["APr"] == 0


def test_the_limit_is_per_class_over_the_set_and_not_per_image() -> None:
    rows = [row(i, 2, 0.5 + i / 10, [50, 50, 20, 20]) for i in (1, 2)]
    assert fixed_ap(truth(), rows)["APr"] == pytest.approx(1.0)
    assert fixed_ap(truth(), rows, per_class=1)["APr"] == pytest.approx(51 / 101)


def test_few_detections_give_the_same_by_both_protocols() -> None:
    rows = [row(1, 1, 0.9, [0, 0, 10, 9]), row(2, 2, 0.3, [50, 50, 20, 20])]
    rows.append(row(1, 2, 0.7, [0, 0, 10, 10]))
    assert fixed_ap(truth(), rows) == evaluate(truth(), rows, style="lvis")


def test_the_metric_gives_both_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(truth()))
    metric = FixedDetectionMetric(str(path))
    metric.dataset_meta = {"classes": ("cat", "unicorn")}
    boxes = torch.tensor([[80.0, 0, 89, 9]] * 400 + [[50.0, 50, 70, 70]])
    found = dict(
        bboxes=boxes,
        scores=torch.tensor([0.9] * 400 + [0.1]),
        labels=torch.tensor([0] * 400 + [1]),
    )
    metric.process({}, [dict(img_id=i, pred_instances=found) for i in (1, 2)])
    values = metric.evaluate(2)
    assert values["lvis/bbox_APr"] == 0
    assert values["lvis/bbox_fixed_APr"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="style='lvis'"):
        FixedDetectionMetric(str(path), style="coco")
