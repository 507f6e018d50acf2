"""The dicts of a model that are its own, not those of its backbone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict

from sparc_pretrain import config_tree


def dicts(node: Any, path: str) -> Iterator[tuple[str, ConfigDict]]:
    """`node` and every dict below it, with their paths; not those inside a backbone."""
    return config_tree.dicts(node, path, lambda key: key != "backbone")
