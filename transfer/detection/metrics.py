"""Average precision of boxes and masks, COCO and LVIS style, as pycocotools and lvis-api give it.

The matching runs in hotcoco (Rust). AP is the mean over IoU 0.50:0.05:0.95 and 101 recall points
(Lin et al. 2014, arXiv 1405.0312); LVIS is federated (Gupta et al. 2019, arXiv 1908.03195): a
detection counts only in images where its category was looked for.
"""

from __future__ import annotations

import gc
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import hotcoco
import numpy as np

from sparc_pretrain import json_file
from sparc_pretrain.data.coco_file import LVIS_IMAGE, coco_rows, ids_of
from sparc_pretrain.metric import Metric

Json = dict[str, Any]
Source = str | Path | Json
DEFAULT_MAX_DETS = {"coco": 100, "lvis": 300}
DECLARED = (
    Metric("bbox_AP", headline=True, title="box AP"),
    Metric("segm_AP", title="mask AP"),
    Metric("bbox_*", words="boxes"),
    Metric("segm_*", words="masks"),
)
LVIS_GROUPS = {"r": "APr", "c": "APc", "f": "APf"}  # rare, common, frequent
BOX = ("image_id", "x", "y", "w", "h", "score", "category_id")  # hotcoco's columns
AREAS = {"AP": 0, "APs": 1, "APm": 2, "APl": 3}  # all, below 32^2, up to 96^2, above: pixels


@contextmanager
def collector_paused() -> Iterator[None]:
    """Millions of small dicts that live on make Python's garbage collector look at them over and
    over: half the time of an evaluation.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@collector_paused()
def evaluate(
    ground_truth_json: Source,
    results_json: str | Path | list[Json],
    iou_type: Literal["bbox", "segm"] = "bbox",
    style: Literal["coco", "lvis"] = "coco",
    max_dets: int | None = None,
) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl (and APr, APc, APf for LVIS) of results, from 0 to 1.

    Both inputs are files or what those files hold: a COCO or LVIS annotation dict, and a list of
    `{image_id, category_id, score, bbox [x, y, w, h] | segmentation (RLE)}`. For 'segm' the size of
    an object is that of its mask, whatever box comes with it. `max_dets` are kept per image and
    category in COCO (100) and per image in LVIS (300). A value is -1 where nothing was annotated
    (e.g. no small object); no results give 0. As in pycocotools, except that an annotation with id
    0, which that program never matches, counts like any other.

    Raises FileNotFoundError, and ValueError for data that would give a wrong number: scores or
    boxes that are not finite, images or categories the ground truth does not have, masks that are
    not RLE of the image's size, ids used twice, LVIS fields that are missing.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type is 'bbox' or 'segm', not {iou_type!r}")
    if style not in DEFAULT_MAX_DETS:
        raise ValueError(f"style is 'coco' or 'lvis', not {style!r}")
    limit = DEFAULT_MAX_DETS[style] if max_dets is None else max_dets
    if limit < 1:
        raise ValueError(f"max_dets must be positive, not {max_dets}")
    truth, truth_name = _load(ground_truth_json, "the ground truth")
    results, results_name = _load(results_json, "the results")
    check_ground_truth(truth, iou_type, style, truth_name)
    rows = boxes_of(results, truth) if iou_type == "bbox" else None
    if rows is None:
        _check_results(results, truth, iou_type, results_name)
        # a box beside a mask would set the object's size, so only the field in question goes on
        field = "bbox" if iou_type == "bbox" else "segmentation"
        rows = [
            {key: row[key] for key in ("image_id", "category_id", "score", field)}
            for row in results
        ]
    if style == "lvis":  # lvis-api keeps the best of an image first
        rows = _best_per_image(rows, limit)
    precision, categories = matched(truth, rows, iou_type, style, limit)
    return summary(precision, categories, truth, style)


def boxes_of(results: Any, truth: Json) -> np.ndarray | None:
    """Boxes in COCO's result format as `BOX` [M,7], which hotcoco takes without a dict for each;
    None where the ids of images are no numbers, or `_check_results` has something to say.
    """
    if not isinstance(results, list) or not results:
        return None
    try:
        table = np.array(
            [(r["image_id"], *r["bbox"], r["score"], r["category_id"]) for r in results]
        )
    except (KeyError, TypeError, ValueError):
        return None
    if table.ndim != 2 or table.shape[1] != len(BOX) or table.dtype.kind not in "if":
        return None
    listed = [[row["id"] for row in truth[key]] for key in ("images", "categories")]
    known = [np.isin(table[:, i], ids) for i, ids in zip((0, 6), listed, strict=True)]
    return table if (np.isfinite(table).all(axis=1) & known[0] & known[1]).all() else None


def matched(
    truth: Json, rows: list[Json] | np.ndarray, iou_type: str, style: str, limit: int
) -> tuple[np.ndarray, list[int]]:
    """Precision [IoU, recall, category, area, 1] of checked `rows` (dicts, or boxes [M,7] as
    `boxes_of` gives them), -1 where nothing is annotated, and the categories' ids. In LVIS's style
    the limit of an image has been applied.
    """
    field = "bbox" if iou_type == "bbox" else "segmentation"
    table = isinstance(rows, np.ndarray)
    if not table:
        truth, rows = _numbered(truth, rows)
    if style == "lvis":
        # what has no area is dropped after the limit
        if table:
            rows = rows[rows[:, 3] * rows[:, 4] > 0]
        else:
            rows = [row for row in rows if _area(row, field) > 0]
        annotations = [row for row in truth["annotations"] if row["area"] > 0]
        truth = {**truth, "annotations": annotations}
        loaded = hotcoco.LVISResults(index := hotcoco.COCO(truth), rows, max_dets=None)
        evaluation = hotcoco.LVISeval(index, loaded, iou_type)
    else:
        loaded = (index := hotcoco.COCO(truth)).load_res(rows)
        evaluation = hotcoco.COCOeval(index, loaded, iou_type)
    evaluation.params.max_dets = [limit]  # else 300 per category in LVIS, whatever was asked for
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"], list(evaluation.params.cat_ids)


def summary(
    precision_TRKAM: np.ndarray, categories: list[int], truth: Json, style: str
) -> dict[str, float]:
    """What `evaluate` returns, of the precision of all categories."""
    values = {
        "AP": _mean(precision_TRKAM[:, :, :, 0, -1]),
        "AP50": _mean(precision_TRKAM[0, :, :, 0, -1]),
        "AP75": _mean(precision_TRKAM[5, :, :, 0, -1]),
    }
    for name in ("APs", "APm", "APl"):
        values[name] = _mean(precision_TRKAM[:, :, :, AREAS[name], -1])
    if style == "lvis":
        group = {row["id"]: row["frequency"] for row in truth["categories"]}
        groups = np.array([group[i] for i in categories])
        for letter, name in LVIS_GROUPS.items():
            values[name] = _mean(precision_TRKAM[:, :, groups == letter, 0, -1])
    return values


def by_class(precision_TRKAM: np.ndarray, categories: list[int], truth: Json) -> dict[str, float]:
    """AP of each category that was annotated, by its name."""
    names = {row["id"]: row["name"] for row in truth["categories"]}
    found = [_mean(precision_TRKAM[:, :, k, 0, -1]) for k in range(len(categories))]
    return {names[i]: ap for i, ap in zip(categories, found, strict=True) if ap >= 0}


def _numbered(truth: Json, rows: list[Json]) -> tuple[Json, list[Json]]:
    """Both with images numbered from 0 where their ids are not numbers (hotcoco takes no texts)."""
    if all(isinstance(image["id"], int) for image in truth["images"]):
        return truth, rows
    number = {image["id"]: i for i, image in enumerate(truth["images"])}
    images = [{**image, "id": number[image["id"]]} for image in truth["images"]]
    named = [
        [{**row, "image_id": number[row["image_id"]]} for row in side]
        for side in (truth["annotations"], rows)
    ]
    return {**truth, "images": images, "annotations": named[0]}, named[1]


def _mean(precision: np.ndarray) -> float:
    """Mean of what is defined; -1 when nothing is, as in pycocotools."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0


def _best_per_image(rows: list[Json] | np.ndarray, limit: int) -> list[Json] | np.ndarray:
    """The `limit` best-scored detections of each image; equal scores in the order given."""
    if isinstance(rows, np.ndarray):
        if np.unique(rows[:, 0], return_counts=True)[1].max(initial=0) <= limit:
            return rows
        order = np.lexsort((-rows[:, 5], rows[:, 0]))  # stable: the last key first
        image = rows[order, 0]
        place = np.arange(len(order)) - np.searchsorted(image, image, side="left")
        return rows[np.sort(order[place < limit])]
    per_image: dict[int, list[Json]] = defaultdict(list)
    for row in rows:
        per_image[row["image_id"]].append(row)
    for image, own in per_image.items():
        if len(own) > limit:
            per_image[image] = sorted(own, key=lambda row: row["score"], reverse=True)[:limit]
    return [row for own in per_image.values() for row in own]


def _area(row: Json, field: str) -> float:
    if field == "bbox":
        return row["bbox"][2] * row["bbox"][3]
    return float(hotcoco.mask.area(row["segmentation"]))


def _load(source: Any, what: str) -> tuple[Any, str]:
    """The content of a JSON file, or of an object that is loaded already, and a name for it."""
    if not isinstance(source, str | Path):
        return source, what
    return json_file.read(source), f"{source}"


def check_ground_truth(truth: Any, iou_type: str, style: str, name: str) -> None:
    """Raises ValueError for annotations that cannot be evaluated; `name` is their file's."""
    unlisted = coco_rows(truth, name, boxes=iou_type == "bbox").unlisted
    if unlisted:
        raise ValueError(f"{name}: annotations[{unlisted[0]}] is of an image that is not listed")
    if style == "lvis":
        for key, fields in (("images", LVIS_IMAGE), ("categories", ("frequency",))):
            missing = [field for field in fields if any(field not in row for row in truth[key])]
            if missing:
                raise ValueError(
                    f"{name} lacks {missing[0]!r} in {key!r}, which LVIS's AP needs: give the file "
                    "as published, or evaluate in COCO's style, a file without 'frequency'"
                )
    ids_of(name, "annotations", truth["annotations"])
    wanted = {"area"} | (set() if iou_type == "bbox" else {"segmentation"})
    for n, row in enumerate(truth["annotations"]):
        if missing := wanted - row.keys():
            raise ValueError(f"{name}: annotations[{n}] has no {min(missing)!r}")
        if type(row["area"]) not in (int, float) or not math.isfinite(row["area"]):
            raise ValueError(f"{name}: annotations[{n}] has the area {row['area']!r}")


def _check_results(results: Any, truth: Json, iou_type: str, name: str) -> None:
    if not isinstance(results, list):
        raise ValueError(f"{name}: expected a list of detections, not a {type(results).__name__}")
    images = {row["id"]: row for row in truth["images"]}
    categories = {row["id"] for row in truth["categories"]}
    shape = "bbox" if iou_type == "bbox" else "segmentation"
    for index, row in enumerate(results):
        if missing := {"image_id", "category_id", "score", shape} - row.keys():
            raise ValueError(f"{name}: detection {index} has no {min(missing)!r}")
        if row["image_id"] not in images:
            raise ValueError(
                f"{name}: detection {index} is of image {row['image_id']!r}, which the ground truth"
                " does not list; is it of another split?"
            )
        if row["category_id"] not in categories:
            raise ValueError(
                f"{name}: detection {index} has category {row['category_id']!r}, which the ground"
                " truth does not list; map labels to the category ids of the annotation file"
            )
        if not math.isfinite(row["score"]):
            raise ValueError(f"{name}: detection {index} has score {row['score']}")
        if iou_type == "bbox":
            box = row["bbox"]
            if len(box) != 4 or not all(map(math.isfinite, box)):
                raise ValueError(f"{name}: detection {index} has box {box}, not four numbers")
            continue
        mask, image = row["segmentation"], images[row["image_id"]]
        if not isinstance(mask, dict) or not {"size", "counts"} <= mask.keys():
            raise ValueError(f"{name}: detection {index}: masks must be RLE (size, counts)")
        if "height" in image and list(mask["size"]) != [image["height"], image["width"]]:
            raise ValueError(
                f"{name}: detection {index} has a mask of {list(mask['size'])}, its image is of"
                f" {[image['height'], image['width']]} (height, width)"
            )
