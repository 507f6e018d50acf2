"""Files of weights, read without running code from them; folders that must not be overwritten."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """name -> tensor of a .safetensors file, or of a torch file that holds nothing but tensors.

    A training checkpoint's `state_dict` (or `model`) is taken, and DDP's ``module.`` cut off.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, no weights, or a pickle of code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights {path}")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read: {error}; download it again") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).split("\n")[0][:100]
        raise ValueError(
            f"{path} is refused: it is damaged or holds more than tensors ({reason}), and pickled "
            "code is never run; ask for a .safetensors file"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(key), dict):
            weights = weights[key]
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path} holds no weights: a {type(weights).__name__}")
    weights = {k: v for k, v in weights.items() if isinstance(v, Tensor)}
    if all(k.startswith("module.") for k in weights):
        weights = {k.removeprefix("module."): v for k, v in weights.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def refuse_existing(folder: str | Path, force: bool) -> None:
    """Raises FileExistsError when `folder` exists and `force` is False, OSError when it is no
    folder.
    """
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} is a link or a file; name another folder")
    if folder.exists() and not force:
        raise FileExistsError(f"{folder} exists; name another folder, or replace it with --force")
