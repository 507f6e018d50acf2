"""Values of JSON that people wrote, as elements: each is what it should be, or a reason why not."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Json = dict[str, Any]


class BadElements(ValueError):
    """This sample's boxes cannot be used; the message is the reason, without names of files."""


def json_object(raw: str | bytes | Json) -> Json:
    """An object, parsed unless it is one. Raises BadElements."""
    if isinstance(raw, dict):
        return raw
    try:
        data = json.loads(raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw)
    except UnicodeDecodeError:
        raise BadElements("not UTF-8") from None
    except (ValueError, RecursionError):
        raise BadElements("not JSON") from None
    if not isinstance(data, dict):
        raise BadElements("not a JSON object")
    return data


def list_of(data: Any, key: str) -> list[Json]:
    """The list of objects under `key`, empty where there is none. Raises BadElements."""
    rows = data.get(key, []) if isinstance(data, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadElements(f"{key} is not a list of objects")
    return rows


def texts_of(value: Any, name: str) -> list[str]:
    """A text, a list of texts or nothing -> the usable ones, stripped."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        raise BadElements(f"{name} is not a text or a list of texts")
    try:
        "".join(values).encode()
    except UnicodeEncodeError:  # JSON can name halves of characters
        raise BadElements(f"{name} is not Unicode text") from None
    return [one.strip() for one in values if one.strip()]


def name_of(value: Any) -> str | None:
    """A name or number as a text."""
    return None if value is None else str(value)


def picture_of(data: Json) -> str | bytes:
    """The image of a line of X-VLM's data: bytes, or a path. Raises BadElements."""
    if isinstance(data.get("binary"), str):
        try:
            return b64decode(data["binary"], validate=True)
        except ValueError:
            raise BadElements("binary is not base64") from None
    name = data.get("image") or data.get("file_name")
    if not isinstance(name, str):
        raise BadElements("neither 'binary' nor 'image'")
    return name


def corners_of(box: Any, name: str, form: str = "xywh") -> list[float]:
    """x0 y0 x1 y1 of a stored box. Raises BadElements naming it."""
    numbers = isinstance(box, Sequence) and not isinstance(box, str) and len(box) == 4
    if not numbers or not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) for value in box
    ):
        raise BadElements(f"{name} is {_shown(box)}, not four numbers")
    if not all(math.isfinite(value) for value in box):
        raise BadElements(f"{name} is {_shown(box)}, which is not finite")
    x0, y0, x1, y1 = (float(value) for value in box)
    if form == "xywh":
        x1, y1 = x0 + x1, y0 + y1
    if not (x1 > x0 and y1 > y0):
        raise BadElements(f"{name} is {_shown(box)}, which has no area")
    return [x0, y0, x1, y1]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def stacked(boxes: list[list[float]]) -> Tensor:
    """[N,4] float64."""
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def stored(box: Sequence[float]) -> list[float]:
    """x0 y0 x1 y1 -> x y w h, with as many digits as a pixel needs."""
    x0, y0, x1, y1 = box
    return [round(value, 4) for value in (x0, y0, x1 - x0, y1 - y0)]
