"""Building what a config describes, with a line that names the config's part where that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.registry import build_functions

from sparc_pretrain.config_tree import dicts

BUILDER = build_functions.build_from_cfg.__code__
# What mm's classes raise when an argument does not suit them.
FAULTS = (AssertionError, KeyError, TypeError, AttributeError, IndexError)


@contextmanager
def naming_parts(cfg: Config) -> Iterator[None]:
    """Turns what a class of `cfg` raises while it is built into a line naming the part.

    Raises:
        ValueError: instead of the errors of `FAULTS`, when they come out of a builder; others,
            and those from elsewhere, pass.
    """
    try:
        yield
    except FAULTS as error:
        part = _part(error.__traceback__)
        if part is None:
            raise
        where = _path(cfg.to_dict(), part, "") or "config"
        told = f"{error.args[0]}" if error.args else "its arguments do not go together"
        told = " ".join(str(told).split())
        kind = part.get("type")
        name = kind if isinstance(kind, str) else getattr(kind, "__name__", kind)
        raise ValueError(
            f"{where} ({name}) cannot be built: {type(error).__name__}: {told} ({_place(error)})"
        ) from error


def _part(trace: TracebackType | None) -> dict[str, Any] | None:
    """The config of the innermost builder in a traceback."""
    part = None
    while trace is not None:
        frame: FrameType = trace.tb_frame
        if frame.f_code is BUILDER and isinstance(frame.f_locals.get("cfg"), dict):
            part = frame.f_locals["cfg"]
        trace = trace.tb_next
    return part


def _path(node: Any, part: dict[str, Any], path: str) -> str | None:
    """Where in a config the dict stands that is most like `part` (parents hand arguments down, so
    it may hold more); None if there is none of its type.
    """
    best: tuple[int, str | None] = (-1, None)
    for where, found in _typed(node, path):
        if found["type"] == part.get("type"):
            alike = sum(key in part and part[key] == value for key, value in found.items())
            best = max(best, (alike, where), key=lambda pair: pair[0])
    return best[1]


def _typed(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((where, found) for where, found in dicts(node, path) if "type" in found)


def _place(error: BaseException) -> str:
    """``file.py:12``, where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
