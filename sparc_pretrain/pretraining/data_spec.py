"""What a run is trained on, how and for how long, in a few lines of text that travel in its
checkpoints: a resumed run must be the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.runner import Runner

from sparc_pretrain.distributed import world_size
from sparc_pretrain.engine.random_state import base_seed

KEY = "data_spec"
SHOWN = 16  # hexadecimal digits of a hash
# Parts of a pre-training config that say how: what a checkpoint goes on with (its optimizer groups
# win over the config's), or what its weights cannot tell (drop paths, weights of losses).
METHOD = {
    "objective": ("model", "objective"),
    "vision tower": ("model", "vision"),
    "text tower": ("model", "text"),
    "optimizer": ("optim_wrapper",),
}


def describe(runner: Runner) -> dict[str, str]:
    """Name -> value of everything about the data that decides what the next step sees, on a runner
    whose training loop is built; of pre-training its schedule too, which a checkpoint goes on with,
    whatever the config says. Folders are left out: a data set may move.
    """
    loader = runner.train_dataloader
    spec = {"seed": str(base_seed(runner))}
    if hasattr(loader.dataset, "fingerprint"):
        # pre-training keeps the global batch for any number of processes; mm's loaders keep the
        # batch of a process, and there a resume on other machines changes it, with a warning
        spec["global batch"] = str((loader.batch_size or 1) * world_size())
        if schedule := runner.cfg.get("schedule"):
            rate = runner.cfg.optim_wrapper.optimizer.get("lr")
            spec["schedule"] = f"{schedule.steps} steps, {schedule.warmup} of warm-up, rate {rate}"
            if (shape := schedule.get("shape", "cosine")) != "cosine":
                spec["schedule"] += f", {shape}, {schedule.get('cool_down', 0)} of cool-down"
            if schedule.warmup is None:
                own = _sha256(str(runner.cfg.param_scheduler).encode())
                spec["schedule"] = f"{schedule.steps} steps, rate {rate}, schedulers {own}"
            for name, keys in METHOD.items():
                spec[name] = _text(runner.cfg, keys)
        block = getattr(getattr(loader, "sampler", None), "shards_per_block", None)
        if block is not None:
            spec["shards of a block"] = str(block)
        drawn = getattr(getattr(loader, "sampler", None), "draw_size", None)
        if drawn is not None:  # tells mode 'alternate' from 'mixed'
            spec["samples of a source in a row"] = str(drawn)
        names = ("image_size", "scale", "flip", "max_pixels", "max_tokens", "fields")
        spec["how samples are read"] = ", ".join(
            f"{name} {getattr(loader.dataset, name)}"
            for name in names
            if getattr(loader.dataset, name, None) is not None
        )
    if hasattr(loader.dataset, "__len__"):
        spec["samples"] = str(len(loader.dataset))
    for number, dataset in enumerate(_leaves(loader.dataset)):
        name = f"data set {number}" if number else "data set"
        found = _content(dataset)
        if found is not None:
            spec[name] = found
        tokenizer = getattr(dataset, "tokenizer", None)
        if hasattr(tokenizer, "to_json"):
            spec["tokenizer"] = _sha256(tokenizer.to_json().encode())
    return spec


def check(saved: Any, current: dict[str, str]) -> None:
    """Raises ValueError, with the differences, when a checkpoint's spec is not the `current` one;
    what only one of them knows is not compared, and checkpoints without a spec are let through.
    """
    if not isinstance(saved, dict):
        return
    differ = [
        f"{name} {saved[name]} -> {current[name]}"
        for name in current
        if name in saved and saved[name] != current[name]
    ]
    if differ:
        raise ValueError(
            f"the training is not that of the checkpoint: {'; '.join(differ)}. Resume with the "
            "data and schedule it had, train on in a new --work-dir with model.init_from=RUN, or "
            "accept the change with --cfg-options default_hooks.checkpoint.allow_changes=True "
            "(learning rates go on as they were)"
        )


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside mm's wrappers (repeat, class balance, concatenation)."""
    inner = getattr(dataset, "datasets", None)
    inner = [getattr(dataset, "dataset", None)] if inner is None else inner
    inner = [one for one in inner if one is not None]
    if not inner:
        yield dataset
    for one in inner:
        yield from _leaves(one)


def _content(dataset: Any) -> str | None:
    """A data set's own fingerprint, or a hash of its annotation file, or of its images' names."""
    if hasattr(dataset, "fingerprint"):
        return str(dataset.fingerprint)
    file = getattr(dataset, "ann_file", None)
    if isinstance(file, (str, Path)) and Path(file).is_file():
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return f"{Path(file).name} {digest[:SHOWN]}"
    if hasattr(dataset, "get_data_info") and hasattr(dataset, "__len__"):
        rows = (dataset.get_data_info(i) for i in range(len(dataset)))
        names = "\n".join(Path(str(row.get("img_path", ""))).name for row in rows)
        return f"images {_sha256(names.encode())}"
    return None


def _text(cfg: Any, keys: tuple[str, ...]) -> str:
    """A part of a config, whatever the order of its keys; "none" where it has none."""
    for key in keys:
        cfg = (cfg or {}).get(key)
    found = cfg.to_dict() if hasattr(cfg, "to_dict") else cfg
    return "none" if found is None else json.dumps(found, sort_keys=True, default=str)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:SHOWN]
