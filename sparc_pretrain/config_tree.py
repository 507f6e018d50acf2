"""The one way to walk a config: its dicts, at any depth, with the paths to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def dicts(
    node: Any, path: str = "", enter: Callable[[str], bool] = lambda key: True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """`node` and every dict below it, each before what is in it, with its path ('model.neck[0]').

    A dict may be changed when it is yielded; what it holds then is walked. enter: whether to walk
    on below a key.
    """
    if isinstance(node, dict):
        yield path, node
        for key, value in list(node.items()):
            if enter(str(key)):
                yield from dicts(value, f"{path}.{key}" if path else str(key), enter)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from dicts(value, f"{path}[{i}]", enter)
