"""What config.json of a run folder may say: names, numbers and words, of the kinds that the towers
read. Whether they are those of a tower is for the towers; that they are data is found out here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

KEY = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)
MOST = 1 << 20  # of any size: far above all models, far below what fills a memory with a list
LONGEST = 4096  # characters of a word
DEEPEST = 3  # objects inside objects: config.vision.overrides
# of resizing, by PIL's numbers
INTERPOLATIONS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
REQUIRED = ("format", "vision", "text", "width", "mean", "std", "interpolation", "objective")


def check(config: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the key, for a config that describes no model."""
    missing = [key for key in REQUIRED if key not in config]
    if missing:
        raise ValueError(f"missing keys {missing}")
    _plain(config, "", 0)
    for key, told in (("vision", (dict,)), ("text", (dict, type(None)))):
        if not isinstance(config[key], told):
            raise ValueError(f"{key} describes no tower: {config[key]!r}")
    if not isinstance(config["vision"].get("overrides"), (dict, type(None))):
        raise ValueError(f"vision.overrides is no object: {config['vision']['overrides']!r}")
    if not isinstance(config["objective"], (dict, type(None))):
        raise ValueError(f"objective is no object: {config['objective']!r}")
    if config["interpolation"] not in tuple(INTERPOLATIONS):
        told = f"interpolation={config['interpolation']!r}"
        raise ValueError(f"{told} is none of {', '.join(INTERPOLATIONS)}")
    if not isinstance(config.get("global_head", True), bool):
        raise ValueError(f"global_head={config['global_head']!r} is neither true nor false")
    if type(config["width"]) is not int or not 1 <= config["width"] <= MOST:
        raise ValueError(f"width={config['width']!r} is no width")
    seen = config.get("samples_seen")
    if seen is not None and type(seen) is not int:
        raise ValueError(f"samples_seen={seen!r} is no number of pairs")
    for key, least in (("mean", -math.inf), ("std", 0)):
        values = config[key]
        numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
        if not numbers or len(values) != 3 or not all(least < v < math.inf for v in values):
            raise ValueError(f"{key}={values!r} are no {key} of three channels")


def check_words(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Raises ValueError for a tokenizer.json with ids that the text tower has no vector for.

    What else may be wrong with it is found out by whoever reads it (`data.tokenizer`).
    """
    rows = (config["text"] or {}).get("vocab_size")
    inner, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    words = inner.get("vocab") if isinstance(inner, dict) else None
    ids = [*words.values()] if isinstance(words, dict) else []
    ids += [len(words) - 1] if isinstance(words, list) else []  # Unigram's: [word, score]
    ids += [one.get("id") for one in added or () if isinstance(one, dict)]
    largest = max((one for one in ids if type(one) is int), default=-1)
    if type(rows) is int and largest >= rows:
        raise ValueError(
            f"it has the id {largest}, the text tower of {rows} words no vector for it: they are "
            "not of the same run"
        )


def check_vision(config: Mapping[str, Any], run: object) -> None:
    """Raises ValueError for the config of a run whose vision tower was never trained."""
    if config.get("vision_trained", True) is not True:
        raise ValueError(
            f"{run} was trained on region vectors from files (vision_trained: false): its vision "
            "tower is as it was drawn, and there is nothing to transfer; train with "
            "model.objective.regions='online'"
        )


def _plain(value: Any, where: str, depth: int) -> None:
    """Keys are names, so that they can be written into a config; values are numbers and words."""
    if isinstance(value, dict):
        if depth >= DEEPEST:
            raise ValueError(f"{where} is nested too deep")
        for key, inner in value.items():
            if not KEY.fullmatch(key):
                raise ValueError(f"{where or 'it'} has a key that is no name: {key[:60]!r}")
            _plain(inner, f"{where}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        if len(value) > MOST or not all(isinstance(v, (int, float, str)) for v in value):
            raise ValueError(f"{where} is no list of numbers and words")
    elif isinstance(value, str) and len(value) > LONGEST:
        raise ValueError(f"{where} is a text of {len(value)} characters")
