"""Files of weights, read without running code from them; folders that must not be overwritten."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from sparc_pretrain.engine.plain_data import load

WEIGHT_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Where checkpoints of timm, mmengine and others keep a moving average, and the trained weights.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
TRAINED = ("state_dict", "model")
COUNTERS = ("steps", "n_averaged")  # of the averages of mmengine and torch
COMPILED, PARALLEL = re.compile(r"(?:^|(?<=\.))_orig_mod\."), "module."


def read_weights(
    path: str | Path, average: bool | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """name -> tensor of a .safetensors file, or of a torch file that holds nothing but plain data;
    and a note where there was a choice.

    Of a training checkpoint the moving average is taken where there is one, as timm does, else the
    trained weights; ``module.`` of DDP and ``_orig_mod.`` of torch.compile are cut off, in any
    order.

    Args:
        average: True: the moving average and nothing else; False: the trained weights.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, no weights, or a pickle of code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights {path}")
    loaded = load(path)
    averaged = [key for key in AVERAGED if isinstance(loaded.get(key), dict)]
    trained = [key for key in TRAINED if isinstance(loaded.get(key), dict)]
    if average and not averaged:
        raise ValueError(f"{path} has no moving average: its keys are {_shown(loaded)}")
    notes = []
    if averaged and average is not False:
        found = loaded[averaged[0]]
        if average is None and trained:
            notes = [f"the moving average, {averaged[0]!r}, is taken; --raw takes {trained[0]!r}"]
    elif trained:
        found = loaded[trained[0]]
    else:
        found = loaded
    if averaged and average is False and not trained:
        raise ValueError(f"{path} holds only a moving average: its keys are {_shown(loaded)}")
    weights = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    weights = unwrapped({k: v for k, v in weights.items() if k not in COUNTERS})
    if not weights:
        raise ValueError(
            f"{path} holds no weights where they are looked for (at its top, or in one of "
            f"{', '.join((*AVERAGED, *TRAINED))}): its keys are {_shown(loaded)}; save the part "
            "that you mean as a .safetensors file"
        )
    strange = [name for name, tensor in weights.items() if tensor.is_sparse or tensor.is_quantized]
    if strange:
        raise ValueError(f"{path}: {strange[0]} is sparse or quantised, not a plain tensor")
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}, notes


def unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights without what torch.compile and DDP, around each other in any order, put before their
    names.
    """
    named = {COMPILED.sub("", name): tensor for name, tensor in weights.items()}
    while named and all(name.startswith(PARALLEL) for name in named):
        named = {name.removeprefix(PARALLEL): tensor for name, tensor in named.items()}
    return named


def refuse_existing(folder: str | Path, force: bool) -> None:
    """Raises FileExistsError when `folder` exists and `force` is False, OSError when it is no
    folder.
    """
    folder = Path(folder)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} is a link or a file; name another folder")
    if folder.exists() and not force:
        raise FileExistsError(f"{folder} exists; name another folder, or replace it with --force")


def _shown(loaded: dict[str, Any]) -> str:
    """The first keys of a checkpoint."""
    names = [str(key)[:40] for key in loaded]
    return f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
