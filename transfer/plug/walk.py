"""A walk over the dicts of a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict


def dicts(node: Any, path: str) -> Iterator[tuple[str, ConfigDict]]:
    """`node` and every dict below it, with their paths; not those inside a backbone."""
    if isinstance(node, dict):
        yield path, node
        for key, value in list(node.items()):
            if key != "backbone":
                yield from dicts(value, f"{path}.{key}" if path else key)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from dicts(value, f"{path}[{i}]")
