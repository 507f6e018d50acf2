"""Run folders in half the size."""

from __future__ import annotations

from pathlib import Path

import torch

from sparc_pretrain import run_folder


def halve(source: str | Path, folder: str | Path) -> run_folder.RunFolder:
    """A copy of a run folder in half the size: float16 weights, which are read as float32.

    Raises as `open_run`; ValueError: a weight is too large for float16.
    """
    run = run_folder.open_run(source)
    weights = {name: tensor.half() for name, tensor in run.weights().items()}
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{run.path}: {name} is too large for float16; keep the whole folder")
    place = run.path / run_folder.TOKENIZER
    tokenizer = place.read_text(encoding="utf-8") if place.exists() else None
    return run_folder.write(folder, run.config, weights, tokenizer, torch.float16)
