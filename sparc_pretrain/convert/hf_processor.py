"""How a Hugging Face folder prepares pixels: preprocessor_config.json, and processor_config.json,
the only one that transformers 5 writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparc_pretrain.run_config import INTERPOLATIONS

RESAMPLING = {number: name for name, number in INTERPOLATIONS.items()}
SAID = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample")
FILES = ("preprocessor_config.json", "processor_config.json")
Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Pixels:
    """mean, std: of pixels in [0,1]; interpolation: of the resizing before."""

    mean: Channels
    std: Channels
    interpolation: str


def merged(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the files (name -> JSON object) say of images, those in an `image_processor` included.

    Raises:
        ValueError: two of them disagree.
    """
    said: dict[str, tuple[Any, str]] = {}
    for name, content in files.items():
        inner = content.get("image_processor")
        for part in (content, inner if isinstance(inner, dict) else {}):
            for key in SAID:
                if part.get(key) is None:
                    continue
                if key in said and said[key][0] != part[key]:
                    raise ValueError(
                        f"{name} says {key}={part[key]}, {said[key][1]} {said[key][0]}: remove "
                        "the file that is not of these weights"
                    )
                said[key] = (part[key], name)
    return {key: value for key, (value, _) in said.items()}


def pixels(said: Mapping[str, Any], mean: Channels, std: Channels, resample: int) -> Pixels:
    """What `merged` found, with the family's own values where nothing is said.

    Raises:
        ValueError: a value that means nothing.
    """
    if said.get("do_normalize", True):
        mean, std = (_channels(key, said.get(key, v)) for key, v in
                     (("image_mean", mean), ("image_std", std)))  # fmt: skip
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # the file normalises x * factor; ours, x / 255
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1
    if type(factor) not in (int, float) or not 0 < factor < math.inf:
        raise ValueError(f"rescale_factor={factor!r} is no factor")
    if not all(s > 0 for s in std):
        raise ValueError(f"image_std={list(std)} must be above 0")
    scale = round(255 * factor, 9)
    number = said.get("resample", resample)
    if number not in RESAMPLING:
        raise ValueError(f"resample={number!r} is none of {RESAMPLING}")
    return Pixels(tuple(m / scale for m in mean), tuple(s / scale for s in std), RESAMPLING[number])


def _channels(key: str, value: Any) -> Channels:
    values = [value] * 3 if type(value) in (int, float) else value
    numbers = isinstance(values, (list, tuple)) and len(values) == 3
    if not numbers or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        raise ValueError(f"{key}={value!r} are no values of three channels")
    return tuple(float(v) for v in values)
