"""Reading checkpoints of any origin as plain data: code in them is never executed."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors import SafetensorError
from safetensors.torch import load_file


class UnsafeCheckpoint(ValueError):
    """The file needs Python code or classes that are not plain training state."""


def load(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a ``.pth`` (or ``.safetensors``) file as plain data; code in it is never executed.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpoint: the pickle asks for classes or functions outside of training state.
        ValueError: the file is empty, truncated or no checkpoint at all.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: give the path of a checkpoint")
    if path.suffix == ".safetensors":
        try:
            return load_file(path, device=str(map_location or "cpu"))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    return load_plain(path, path, map_location)


def load_plain(source: Path | BinaryIO, name: str | Path, map_location: Any) -> dict[str, Any]:
    """`load` for an open file as well, raising alike; `name` is for the messages."""
    try:
        with torch.serialization.safe_globals(_plain_types()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            loaded = torch.load(source, map_location=map_location, weights_only=True)
    except OSError:
        raise
    except Exception as error:
        culprit = _foreign_object(error, source)
        if culprit is not None:
            raise UnsafeCheckpoint(
                f"{name} needs {culprit}, and nothing but plain data is ever loaded; if you trust "
                "the file, convert its weights to .safetensors in an isolated environment and "
                "load that"
            ) from error
        raise ValueError(
            f"{name} is not a readable checkpoint: it is truncated, empty or another kind of file"
        ) from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{name} holds a {type(loaded).__name__}, not a checkpoint (a dict)")
    return loaded


def _foreign_object(error: Exception, source: Path | BinaryIO) -> str | None:
    """What made the restricted unpickler refuse, or None when the bytes are no pickle at all."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    asked_for = re.search(r"(?:global|GLOBAL|class|function) ([^\s`]+)", str(error))
    if asked_for:
        return f"the Python object {asked_for[1].rstrip('.,')}"
    if isinstance(source, Path):
        with open(source, "rb") as file:
            if file.read(1) == pickle.PROTO:
                return "Python's own unpickler (a bare pickle)"
    return None


def _history_method(owner: type, name: str) -> Callable:
    """Stands for ``getattr`` in a pickle: mmengine's histories name their four statistics with it,
    and the true getattr would let a pickle reach anything.
    """
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise pickle.UnpicklingError("Unsupported global builtins.getattr")
    return getattr(HistoryBuffer, name)


def _plain_types() -> list[Any]:
    """What genuine mmengine checkpoints hold besides tensors: histories, numpy arrays, scalars."""
    array, scalar = np._core.multiarray._reconstruct, np._core.multiarray.scalar
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU"}
    return [
        HistoryBuffer,
        (_history_method, "builtins.getattr"),
        slice,
        np.ndarray,
        np.dtype,
        array,
        scalar,
        (array, "numpy.core.multiarray._reconstruct"),  # written by numpy 1
        (scalar, "numpy.core.multiarray.scalar"),
        *dtypes,
    ]
