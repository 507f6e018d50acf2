"""Average precision class by class, of packed masks, is that of all detections at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from tests.transfer.detection.test_detection_metrics import make_set
from transfer.detection import detections
from transfer.detection.detections import Detections, average_precision
from transfer.detection.fixed_ap import fixed_ap
from transfer.detection.metrics import evaluate
from transfer.detection.run_lengths import Shelf, encode


def entries(truth: dict, rows: list[dict], shelf: Shelf) -> list[dict]:
    """Rows as `DetectionMetric` keeps them; images in the file's order, some without any."""
    ids = {row["id"]: label for label, row in enumerate(truth["categories"])}
    found = []
    for image in truth["images"]:
        own = [row for row in rows if row["image_id"] == image["id"]]
        boxes = np.array([row["bbox"] for row in own], dtype=float).reshape(-1, 4)
        found.append(
            {
                "image_id": image["id"],
                "labels": np.array([ids[row["category_id"]] for row in own], dtype=np.int32),
                "scores": np.array([row["score"] for row in own]),
                "mask_scores": np.array([row["score"] for row in own]),
                "bboxes": np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                "masks": shelf.pack([row["segmentation"] for row in own]),
            }
        )
    return found


@pytest.mark.parametrize("group", [1, 7, 10_000])
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("style", ["coco", "lvis"])
def test_classes_in_groups_give_what_all_at_once_give(
    style: str, iou_type: str, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detections, "GROUP", group)
    shelf = Shelf()
    for seed, limit in ((0, 300), (1, 5)):
        truth, rows = make_set(seed, style)
        order = {row["id"]: i for i, row in enumerate(truth["images"])}
        rows.sort(key=lambda row: order[row["image_id"]])  # as images come
        ids = [row["id"] for row in truth["categories"]]
        found = Detections(entries(truth, rows, shelf), ids, iou_type)
        lvis = style == "lvis"
        kept = found.best_of_each_image(limit) if lvis else np.ones(len(found), bool)
        told = average_precision(truth, found, style, {"": (kept, limit)})[""]
        assert told == pytest.approx(evaluate(truth, rows, iou_type, style, limit), abs=1e-12)
        if lvis:
            best = found.best_of_each_class(limit)
            told = average_precision(truth, found, style, {"f": (best, int(best.sum()))})["f"]
            assert told == pytest.approx(fixed_ap(truth, rows, iou_type, limit), abs=1e-12)
    shelf.clear()


def test_no_more_than_a_group_is_ever_made_into_dicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detections, "GROUP", 20)
    truth, rows = make_set(2, "lvis", detections=40)
    ids = [row["id"] for row in truth["categories"]]
    found = Detections(entries(truth, rows, Shelf()), ids, "bbox")
    groups = list(found.groups(ids))
    of_class = {i: sum(row["category_id"] == i for row in rows) for i in ids}
    assert [c for some, _ in groups for c in some] == ids
    assert sorted(np.concatenate([places for _, places in groups])) == list(range(len(rows)))
    for some, places in groups:
        assert len(places) <= 20 or len(some) == 1
        assert len(places) == sum(of_class[i] for i in some)


def test_the_box_is_where_a_mask_is_looked_for_and_what_lies_outside_is_not_lost() -> None:
    torch.manual_seed(0)
    masks = torch.zeros(6, 40, 50, dtype=torch.bool)
    masks[0, 5:20, 10:30] = True
    masks[1] = torch.rand(40, 50) > 0.5  # far beyond its box
    masks[2] = True
    masks[3, :, 4:7] = True  # whole columns: one run
    masks[4, 39, 49] = masks[4, 0, 0] = True
    boxes = torch.tensor(
        [[10, 5, 30, 20], [3, 3, 9, 9], [0, 0, 50, 40], [4, 0, 7, 40], [-9, -9, 99, 99],
         [5, 5, 5, float("nan")]]
    )  # fmt: skip
    for mask, found in zip(masks, encode(masks, boxes), strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert found == {"size": [40, 50], "counts": expected["counts"].decode()}


def test_masks_wait_on_disk_and_go_with_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    rles = encode(torch.rand(3, 12, 9) > 0.5)
    shelf = Shelf()
    first, second = shelf.pack(rles), shelf.pack(rles[:1])
    path = Path(first.file)
    assert path.exists() and first.rles([2, 0]) == [rles[2], rles[0]]
    assert second.rles([0]) == rles[:1] and shelf.pack([]).rles([]) == []
    shelf.clear()
    assert not path.exists()
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")  # two machines: rank 0 cannot read our files
    assert Shelf().pack(rles).file is None
