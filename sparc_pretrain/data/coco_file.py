"""Files in COCO's form (images, annotations, categories), LVIS among them: the one reader of all
that take such a file. What is wrong with one is told in a line that names it, before anything is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparc_pretrain import json_file

Json = dict[str, Any]
LVIS_IMAGE = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class CocoFile:
    """Rows of a file, checked: ids are numbers or texts and used once, every annotation is of an
    image and a category that are listed.

    `unlisted`: places in the file's annotations of those left out, whose image it does not list.
    """

    path: Path
    images: list[Json]
    annotations: list[Json]
    categories: list[Json]
    unlisted: list[int]

    @property
    def is_lvis(self) -> bool:
        """Whether the categories have LVIS's frequencies (r, c, f)."""
        return bool(self.categories) and all("frequency" in row for row in self.categories)

    @property
    def content(self) -> Json:
        """What evaluators take: a dict of the three lists."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }

    def of_images(self, ids: Sequence[Any]) -> Json:
        """`content` of these images alone."""
        kept = set(ids)
        rows = [row for row in self.annotations if row["image_id"] in kept]
        images = [row for row in self.images if row["id"] in kept]
        return {**self.content, "images": images, "annotations": rows}


def read_coco(file: str | Path, categories: bool = True, boxes: bool = True) -> CocoFile:
    """The rows of a COCO or LVIS file.

    Args: categories: every annotation has one that is listed; else they are captions. boxes: and a
        finite `bbox` [x, y, w, h].

    Raises FileNotFoundError, and ValueError naming the file and the row.
    """
    path = Path(file)
    return coco_rows(json_file.read(path, what="annotation file"), path, categories, boxes)


def coco_rows(
    content: Any, path: str | Path, categories: bool = True, boxes: bool = True
) -> CocoFile:
    """`read_coco` of what a file holds; `path` is what messages call it."""
    kinds = ("images", "annotations", "categories") if categories else ("images", "annotations")
    for kind in kinds:
        if not isinstance(content, dict) or not isinstance(content.get(kind), list):
            told = "COCO or LVIS" if categories else "COCO captions"
            raise ValueError(f"{path} is no {told} file: it has no list {kind!r}")
        for n, row in enumerate(content[kind]):
            if not isinstance(row, dict):
                raise ValueError(f"{path}: {kind}[{n}] is no object")
    images = ids_of(path, "images", content["images"])
    listed = ids_of(path, "categories", content["categories"]) if categories else set()
    if categories:
        for n, row in enumerate(content["categories"]):
            if not isinstance(row.get("name"), str) or not row["name"].strip():
                raise ValueError(f"{path}: categories[{n}] has no 'name'")
    spelt = {str(one): one for one in images}
    kept, unlisted = [], []
    for n, row in enumerate(content["annotations"]):
        image = _id(path, "annotations", n, row, "image_id")
        if image not in images:
            _same_spelling(path, n, "image_id", image, spelt)
            unlisted.append(n)
            continue
        if categories:
            category = _id(path, "annotations", n, row, "category_id")
            if category not in listed:
                _same_spelling(path, n, "category_id", category, {str(i): i for i in listed})
                raise ValueError(f"{path}: annotations[{n}]: category {category!r} is not listed")
            if boxes:
                _box(path, n, row)
        kept.append(row)
    return CocoFile(path, content["images"], kept, content.get("categories") or [], unlisted)


def ids_of(path: str | Path, kind: str, rows: list[Json]) -> set[Any]:
    """The ids of rows. Raises ValueError for one that is missing, used twice, or neither a number
    nor a text.
    """
    found: set[Any] = set()
    for n, row in enumerate(rows):
        one = _id(path, kind, n, row, "id")
        if one in found:
            raise ValueError(f"{path}: {kind}[{n}] has the id {one!r}, which another one has too")
        found.add(one)
    return found


def _id(path: str | Path, kind: str, n: int, row: Json, key: str) -> int | float | str:
    if key not in row:
        raise ValueError(f"{path}: {kind}[{n}] has no {key!r}")
    found = row[key]
    if isinstance(found, bool) or not isinstance(found, (int, float, str)):
        raise ValueError(f"{path}: {key} of {kind}[{n}] is neither a number nor a text")
    return found


def _same_spelling(path: str | Path, n: int, key: str, wanted: Any, listed: dict[str, Any]) -> None:
    """Raise when 2 is meant by "2": no id of the file, but the text of one."""
    if str(wanted) in listed:
        raise ValueError(
            f"{path}: {key} of annotations[{n}] is {wanted!r}, listed is "
            f"{listed[str(wanted)]!r}: write ids as numbers everywhere, or as texts"
        )


def _box(path: str | Path, n: int, row: Json) -> None:
    box = row.get("bbox")
    sound = isinstance(box, (list, tuple)) and len(box) == 4
    sound = sound and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in box)
    if not sound or not all(map(math.isfinite, box)):
        raise ValueError(f"{path}: annotations[{n}] has the box {box}, not [x, y, width, height]")
