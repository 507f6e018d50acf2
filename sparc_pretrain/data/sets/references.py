"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg) as the records that `phrases` reads: MDETR's
COCO-like JSON, and lists of {image, text, bbox} as X-VLM's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

Json = dict[str, Any]
CONVERTER = "MDETR's scripts/fine-tuning/refexp_coco_format.py"


def records_of(data: Any) -> list[Json] | None:
    """The records of a file of referring expressions, one per expression; None for another kind.

    Raises KeyError, TypeError for entries that lack something.
    """
    if isinstance(data, dict) and {"images", "annotations"} <= data.keys():
        boxes: dict[Any, list[list[float]]] = {}
        for annotation in data["annotations"]:
            boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
        return [
            _record(i["file_name"], i["caption"], boxes.get(i["id"], []), i["width"], i["height"])
            for i in data["images"]
        ]
    if isinstance(data, list) and data and isinstance(data[0], dict) and "text" in data[0]:
        return [_record(e["image"], e["text"], [e["bbox"]], e["width"], e["height"]) for e in data]
    return None


def _record(file: str, text: str, boxes: list[list[float]], width: int, height: int) -> Json:
    phrase = {"chain": "1", "types": ["reference"], "span": [0, len(text)]}
    return {
        "file_name": file,
        "width": width,
        "height": height,
        "sentences": [{"text": text, "phrases": [phrase]}],
        "boxes": {"1": boxes},
    }


def refuse_pickle(path: Path) -> None:
    """Raises ValueError for the refer tool's ``refs(unc).p``: a pickle is code."""
    if not path.is_file():
        return  # whoever reads it says so
    with open(path, "rb") as file:
        first = file.read(1)
    if first == b"\x80":
        raise ValueError(
            f"{path} is a pickle, which would be run as code: convert it to JSON with {CONVERTER} "
            "and give that"
        )
