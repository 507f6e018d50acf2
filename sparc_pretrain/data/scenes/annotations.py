"""The annotations of built-in scenes as dictionaries of COCO instances and of LVIS v1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sparc_pretrain.data.scenes.captions import plural
from sparc_pretrain.data.scenes.render import Scene
from sparc_pretrain.data.scenes.shapes import CATEGORIES

COCO_URL = "http://images.cocodataset.org/"  # what readers of LVIS cut off to find the file

Json = dict[str, Any]


def coco_annotations(scene: Scene, image_id: int, first_id: int) -> list[Json]:
    """One annotation per object; masks as compressed RLE, exact to the pixel."""
    annotations = []
    for number, thing in enumerate(scene.objects):
        rle = coco_mask.encode(np.asfortranarray(thing.mask, np.uint8))
        annotations.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": thing.category + 1,
                "bbox": [float(v) for v in thing.box],
                "area": float(np.count_nonzero(thing.mask)),
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                "iscrowd": 0,
            }
        )
    return annotations


def coco_categories(names: Sequence[str] = CATEGORIES) -> list[Json]:
    """Ids from 1, in the order of `names`, a level's categories."""
    return [
        {"id": k, "name": name, "supercategory": "object"} for k, name in enumerate(names, start=1)
    ]


def frequency(image_count: int) -> str:
    """LVIS: r(are) up to 10 training images, c(ommon) up to 100, f(requent) above."""
    return "r" if image_count <= 10 else "c" if image_count <= 100 else "f"


def lvis_categories(train_annotations: list[Json], names: Sequence[str] = CATEGORIES) -> list[Json]:
    """The categories with their counts in the training split, which decide the frequency group."""
    instances = Counter(a["category_id"] for a in train_annotations)
    pairs = {(a["image_id"], a["category_id"]) for a in train_annotations}
    images = Counter(category for _, category in pairs)
    return [
        {
            "id": k,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": f"one of the drawn {plural(name)}, told by its outline",
            "frequency": frequency(images[k]),
            "image_count": images[k],
            "instance_count": instances[k],
        }
        for k, name in enumerate(names, start=1)
    ]


def lvis_images(
    split: str,
    images: list[Json],
    annotations: list[Json],
    names: Sequence[str] = CATEGORIES,
) -> list[Json]:
    """COCO image records as LVIS ones: the file is named by `coco_url` after COCO_URL.

    Every object is annotated, so each category that an image lacks is a verified negative.
    """
    present: dict[int, set[int]] = {image["id"]: set() for image in images}
    for annotation in annotations:
        present[annotation["image_id"]].add(annotation["category_id"])
    everything = range(1, len(names) + 1)
    return [
        {
            "id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "coco_url": f"{COCO_URL}{split}/{image['file_name']}",
            "flickr_url": "",
            "license": 0,
            "date_captured": "",
            "neg_category_ids": [k for k in everything if k not in present[image["id"]]],
            "not_exhaustive_category_ids": [],
        }
        for image in images
    ]
