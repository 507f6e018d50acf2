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
from torch import Tensor


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
            loaded = load_file(path, device=str(map_location or "cpu"))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
        _check_tensors(loaded, path)
        return loaded
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
    _check_tensors(loaded, name)
    return loaded


def weights(path: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, or of a file (``.safetensors``) that holds nothing else, on the
    CPU.

    Raises as `load`; ValueError for a file that holds no weights.
    """
    loaded = load(path)
    found = loaded.get("state_dict", loaded)
    plain = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    )
    if not plain or not found:
        keys = ", ".join(str(key)[:40] for key in list(loaded)[:8])
        raise ValueError(f"{path} holds no weights: its keys are {keys or 'none'}")
    return found


def _check_tensors(value: Any, name: str | Path, where: str = "") -> None:
    """Raises ValueError for a tensor, at any depth of a checkpoint, that no training writes: with
    NaN in it, sparse, quantised, without data, or larger than the bytes that are there for it.
    """
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not value.is_meta and not value.is_quantized
        if not plain or value.numel() > max(1 << 20, value.untyped_storage().nbytes()):
            raise ValueError(f"{name}: {where} is not a plain tensor with all its numbers")
        if value.is_floating_point() and value.isnan().any():
            raise ValueError(f"{name}: {where} holds NaN: nothing can be computed or go on with it")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_tensors(inner, name, f"{where}.{str(key)[:80]}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_tensors(inner, name, where)


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
