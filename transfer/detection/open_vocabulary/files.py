"""Annotation files of any of the formats open-vocabulary detection is trained on -> one form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparc_pretrain import json_file
from sparc_pretrain.data.coco_file import coco_rows
from transfer.detection.open_vocabulary.prompts import same_thing

Json = dict[str, Any]
COCO_SERVER = "http://images.cocodataset.org/"


def read_truth(path: str | Path) -> Json:
    """COCO, LVIS or Objects365 JSON, or Visual Genome's objects.json (with image_data.json beside
    it) -> a dict of `images`, `categories`, `annotations` as in COCO.

    Raises FileNotFoundError; ValueError for JSON of another kind, an image without width and
    height, an annotation of an image that is not listed, a box that is missing or not finite.
    """
    path = Path(path)
    found = json_file.read(path, what="annotation file")
    if isinstance(found, list) and found and "objects" in found[0]:
        return visual_genome(found, path)
    given = found if isinstance(found, dict) else {}
    missing = [key for key in ("images", "categories", "annotations") if key not in given]
    if missing:
        raise ValueError(
            f"{path} has no {missing[0]!r}: give COCO, LVIS or Objects365 annotations, or Visual"
            " Genome's objects.json"
        )
    checked = coco_rows(found, path)
    if checked.unlisted:
        first = checked.unlisted[0]
        raise ValueError(
            f"{path}: annotations[{first}] is of image {found['annotations'][first]['image_id']!r},"
            f" which it does not list ({len(checked.unlisted)} such): list the images, or remove "
            "their annotations"
        )
    _sized(checked.images, path)
    return {**found, **checked.content}


def _sized(images: Sequence[Json], path: Path) -> None:
    """Raises ValueError for an image without a width and height above 0."""
    for image in images:
        for key in ("width", "height"):
            side = image.get(key)
            if isinstance(side, bool) or not isinstance(side, (int, float)) or not side > 0:
                raise ValueError(
                    f"{path}: image {image['id']!r} has the {key} {side!r}: boxes are cut off where"
                    " the image ends, so it must say its width and height in pixels"
                )


def visual_genome(objects: list[Json], path: Path) -> Json:
    """Visual Genome's objects.json as COCO; one category per name, numbered by falling count.

    Sizes and places of the images are in image_data.json; objects without a name are left out.
    Raises FileNotFoundError without that file, ValueError for an image it does not list.
    """
    beside = path.with_name("image_data.json")
    if not beside.is_file():
        raise FileNotFoundError(f"no {beside}: Visual Genome keeps the images' sizes there")
    known = {row["image_id"]: row for row in json_file.read(beside)}
    counts = Counter(_name(one) for row in objects for one in row["objects"])
    names = [name for name, _ in counts.most_common() if name]
    ids = {name: i for i, name in enumerate(names, start=1)}
    images, annotations = [], []
    for row in objects:
        if row["image_id"] not in known:
            raise ValueError(f"{beside} does not list image {row['image_id']} of {path.name}")
        image = known[row["image_id"]]
        images.append(
            {
                "id": row["image_id"],
                "width": image.get("width"),
                "height": image.get("height"),
                "file_name": "/".join(image["url"].split("/")[-2:]),  # VG_100K/1.jpg
                "neg_category_ids": [],  # nobody says what is not there
                "not_exhaustive_category_ids": [],
            }
        )
        for one in row["objects"]:
            label = ids.get(_name(one))
            box = [one.get(key) for key in "xywh"]
            if not all(isinstance(x, (int, float)) and math.isfinite(x) for x in box):
                told = f"object {one.get('object_id')!r} of image {row['image_id']!r}"
                raise ValueError(f"{path}: {told} has the box {box}, not x, y, w and h")
            if label is not None:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": row["image_id"],
                        "category_id": label,
                        "bbox": [one["x"], one["y"], one["w"], one["h"]],
                        "area": one["w"] * one["h"],
                    }
                )
    _sized(images, beside)
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    return {"images": images, "categories": categories, "annotations": annotations}


def _name(one: Json) -> str:
    """What Visual Genome calls an object, '' if nothing."""
    return one["names"][0].strip().lower() if one["names"] else ""


def image_file(image: Json) -> str:
    """Where an image lies below the image folder: `file_name`; of LVIS, which has none, what its
    `coco_url` ends with ('train2017/000000391895.jpg'); of Objects365 v2 without the 'images/v1/'
    that its archives do not have ('patch8/objects365_v1_00420917.jpg').
    """
    if "file_name" not in image:
        return image["coco_url"].replace(COCO_SERVER, "")
    name = image["file_name"]
    return name.split("/", 2)[2] if name.startswith(("images/v1/", "images/v2/")) else name


def held_out(truth: Json, path: str, frequencies: Sequence[str], names: str | Sequence[str]) -> set:
    """Ids of the categories that training must not see.

    Args:
        truth: COCO form. path: its file, for messages.
        frequencies: LVIS's groups, e.g. ('r',). names: words, or an LVIS annotation file whose rare
            categories are meant; compared by `same_thing`.

    Raises:
        ValueError: frequencies asked for, but the categories have none.
    """
    left = set()
    if frequencies:
        if any("frequency" not in row for row in truth["categories"]):
            raise ValueError(
                f"{path}: its categories have no 'frequency'; name what to leave out by"
                " leave_out_names=LVIS_FILE"
            )
        left = {row["id"] for row in truth["categories"] if row["frequency"] in frequencies}
    if isinstance(names, str):
        rows = read_truth(names)["categories"]
        names = [row["name"] for row in rows if row.get("frequency") == "r"]
        if not names:
            raise ValueError("leave_out_names is a file without rare categories; give LVIS's")
    unwanted = {same_thing(name) for name in names}
    return left | {row["id"] for row in truth["categories"] if same_thing(row["name"]) in unwanted}
