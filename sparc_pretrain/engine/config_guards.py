"""Configs that somebody gives: never deeper or larger than a config can be, and written down
without
turning names into code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import wraps
from io import StringIO
from itertools import accumulate
from typing import Any

from mmengine.config import Config

from sparc_pretrain.config_tree import dicts

MOST_NODES, DEEPEST = 100_000, 100  # values and nesting of a YAML file
UNSAFE_KEY = re.compile(r"['\\\x00-\x1f\x85\u2028\u2029]")


def finite(original: Callable) -> Callable:
    @wraps(original)
    def load_from_fileobj(self: Any, file: Any, **kwargs: Any) -> Any:
        text = file.read()
        depths = accumulate((c in "[{") - (c in "]}") for c in text if c in "[]{}")
        if max(depths, default=0) > DEEPEST:  # the parser takes the square of it in seconds
            raise ValueError("it is nested too deep")
        loaded = original(self, StringIO(text), **kwargs)
        left, nodes = [(loaded, 0)], 0
        while left:
            node, depth = left.pop()
            nodes += 1
            if nodes > MOST_NODES or depth > DEEPEST:
                raise ValueError("it holds itself, or more than a config can")
            inner = node.values() if isinstance(node, dict) else node
            if isinstance(node, (dict, list)):
                left += [(item, depth + 1) for item in inner]
        return loaded

    return load_from_fileobj


def names_only(original: Callable) -> Callable:
    @wraps(original)
    def pretty_text(self: Config) -> str:
        for key in _keys(self.to_dict()):
            if UNSAFE_KEY.search(key):
                raise ValueError(f"the config has a key that cannot be written down: {key[:60]!r}")
        return original(self)

    return pretty_text


def _keys(node: Any) -> Iterator[str]:
    """The keys of all dicts in `node`."""
    return (str(key) for _, part in dicts(node) for key in part)
