"""Steps of tools/train.py against those of mmdet's own train.py, and steps that read a frozen
backbone's maps from the cache against steps that run it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config
from ratios import interleaved, table

from sparc_pretrain.command import cli
from transfer import mm

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "tools" / "train.py"


def leaf(config: str, steps: int, batch: int | None = None) -> Config:
    """`config` for `steps` timed steps: no validation, no checkpoints, no schedule, seed 0."""
    cfg = cli.read_config(mm.locate(config), custom_imports=False)
    if "train_dataloader" not in cfg:
        raise ValueError(f"{config} trains nothing: give a config of mmdet or mmseg")
    names = [*(cfg.get("custom_imports") or {}).get("imports", []), "step_clock"]
    if "transfer" not in names:
        names.insert(0, "transfer")  # mmdet's own train.py needs the ops too
    cfg.custom_imports = dict(imports=names, allow_failed_imports=False)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="StepClockHook")]
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=steps, val_begin=steps + 1)
    cfg.param_scheduler = None
    cfg.randomness = dict(seed=0)
    cfg.default_hooks["checkpoint"] = dict(
        type="CheckpointHook", by_epoch=False, interval=steps + 1, save_last=False
    )
    cfg.log_processor = {**(cfg.get("log_processor") or {}), "by_epoch": False}
    if batch is not None:
        cfg.train_dataloader.batch_size = batch
    return cfg


def train_once(program: Path, config: Path, work_dir: Path, warmup: int) -> dict[str, float]:
    """One training in a process of its own: median seconds of a step after `warmup`, by the clock
    and of the processor, and all that the processor spent.

    Raises ValueError with the end of what it said when it fails.
    """
    paths = [str(ROOT), str(ROOT / "tools/measure"), os.environ.get("PYTHONPATH", "")]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    words = [sys.executable, str(program), str(config), "--work-dir", str(work_dir)]
    before = os.times()
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        said = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ValueError(f"{program} failed on {config}: {said}")
    steps = json.loads((work_dir / "steps.json").read_text())
    user, system = (b - a for a, b in zip(before[2:4], after[2:4], strict=True))
    return {
        "wall": statistics.median(steps["wall"][warmup:]),
        "cpu": statistics.median(steps["cpu"][warmup:]),
        "process": user + system,
    }


def theirs(scope: str) -> Path:
    """mmdet's or mmseg's own train.py, as the wheel brings it."""
    return Path(find_spec(scope).submodule_search_locations[0]) / ".mim" / "tools" / "train.py"


def train(args: Any) -> str:
    """Steps of tools/train.py (A) against those of the library's own train.py (B)."""
    cfg = leaf(args.config, args.steps, args.batch)
    scope = cfg.get("default_scope", "mmdet")
    programs = {"A": OURS, "B": theirs(scope)}
    programs["A again"] = programs["A"]
    with tempfile.TemporaryDirectory() as folder:
        cfg.dump(config := Path(folder) / "leaf.py")

        def once(name: str, repeat: int) -> dict[str, float]:
            work_dir = Path(folder) / f"{name.replace(' ', '_')}{repeat}"
            return train_once(programs[name], config, work_dir, args.warmup)

        runs = interleaved(list(programs), args.repeats, once)
    size = cfg.train_dataloader.batch_size
    told = (
        f"`{args.config}`, batch {size}, {args.steps} steps of which the first {args.warmup} do not"
        f" count, {args.repeats} repeats in turn. A: `tools/train.py`; B: `{scope}/.mim/tools/"
        f"train.py`, on the same file (with `custom_imports=['transfer']`, which brings mmcv's"
        f" ops). No validation, no checkpoints."
    )
    rows = {
        "step, clock": "wall",
        "step, processor": "cpu",
        "whole process with imports, processor": "process",
    }
    return f"{told}\n\n{table(runs, rows, ('A', 'B'))}"


def cached(args: Any) -> str:
    """Steps with a frozen backbone's maps from the cache (A) against running it (B)."""
    hook = dict(type="sparc.CachedFeaturesHook")
    with tempfile.TemporaryDirectory() as folder:
        configs = {}
        for name in ("A", "B"):
            cfg = leaf(args.config, args.steps, args.batch)
            hooks = [h for h in cfg.custom_hooks if h["type"] != hook["type"]]
            if len(hooks) == len(cfg.custom_hooks):
                raise ValueError(f"{args.config} has no {hook['type']} in custom_hooks")
            cache = [{**hook, "folder": f"{folder}/cache"}]
            cfg.custom_hooks = [*hooks, *(cache if name == "A" else [])]
            configs[name] = Path(folder) / f"{name}.py"
            cfg.dump(configs[name])
        configs["A again"] = configs["A"]
        # the same seed and number of steps: the same images, all of them stored by this run
        filling = train_once(OURS, configs["A"], Path(folder) / "filling", args.warmup)

        def once(name: str, repeat: int) -> dict[str, float]:
            work_dir = Path(folder) / f"{name.replace(' ', '_')}{repeat}"
            return train_once(OURS, configs[name], work_dir, args.warmup)

        runs = interleaved(list(configs), args.repeats, once)
    size = cfg.train_dataloader.batch_size
    told = (
        f"`{args.config}`, batch {size}, {args.steps} steps of which the first {args.warmup} do not"
        f" count, {args.repeats} repeats in turn. A: maps read from the cache; B: the backbone runs"
        f" (the hook taken out). The run that fills the cache takes"
        f" {filling['cpu'] / statistics.median(r['cpu'] for r in runs['B']):.2f} of B's processor"
        f" time per step."
    )
    rows = {"step, clock": "wall", "step, processor": "cpu"}
    return f"{told}\n\n{table(runs, rows, ('A', 'B'))}"
