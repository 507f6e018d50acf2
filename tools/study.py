"""Compare objectives under one recipe: train arms x seeds, evaluate them all, write one page.

    python tools/study.py configs/study/scenes.py --work-dir work_dirs/study_scenes --amp

A finished cell is one small JSON in WORK_DIR/cells and is never repeated; a cell that was cut off
resumes from its last checkpoint. Copy the cells of other machines into the same folder and run it
again with --page-only: study.json, study.csv, study.html and study.md are made from the cells that
are there. When a metric is new or was wrong, --remeasure evaluates kept runs again, untrained.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparc_pretrain.command import cli, flags

if TYPE_CHECKING:
    from sparc_pretrain.study.plan import Cell, Plan


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = flags.parser(__doc__)
    flags.config(parser, "a pre-training config with a `study` section")
    flags.work_dir(parser, "default: work_dirs/study/NAME[_PRESET]")
    parser.add_argument("--preset", help="a name of study.presets, e.g. gpu")
    flags.amp(parser)
    parser.add_argument("--jobs", type=int, help="cells at a time (default: GPUs, or CPU cores)")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these")
    parser.add_argument("--keep-runs", action="store_true", help="keep finished run folders")
    parser.add_argument("--page-only", action="store_true", help="no training: tables and page")
    parser.add_argument(
        "--remeasure", action="store_true", help="finished cells whose run was kept, once more"
    )
    parser.add_argument("--resume", action="store_true", help="accepted; it always resumes")
    flags.cfg_options(parser)
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.given = sys.argv[1:] if argv is None else argv
    return args


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, then write the page."""
    args = parse(argv)
    from sparc_pretrain.study import plan, store

    study = plan.read(args.config, args.preset, args.cfg_options)
    name = "_".join(filter(None, (Path(args.config).stem, args.preset)))
    work = cli.writable(args.work_dir or f"work_dirs/study/{name}")
    if args.cell:
        return evaluate_cell(study, args.cell, work, args.amp)
    cells = study.cells()
    for wanted, known in ((args.arms, study.arms), (args.seeds, {c.seed for c in cells})):
        for name in wanted or ():
            if name not in known:
                raise ValueError(
                    f"{args.config} has no {name!r}; it has {', '.join(map(str, known))}"
                )
    chosen = [
        cell
        for cell in cells
        if (not args.arms or cell.arm.name in args.arms)
        and (not args.seeds or cell.seed in args.seeds)
    ]
    store.finished(study, work)  # before hours of training, not after them
    if not args.page_only:
        check_data(study, chosen)
        failed = run(study, chosen, work, args)
    store.publish(study, work, Path(args.config).stem)
    print(f"written to {work / 'study.html'}")
    return 1 if not args.page_only and failed else 0


def run(study: Plan, cells: list[Cell], work: Path, args: argparse.Namespace) -> list[str]:
    """Train and evaluate the cells that have no record yet; returns those that failed."""
    import torch

    from sparc_pretrain.study import as_long_as, store

    gpus = torch.cuda.device_count()
    jobs = args.jobs or gpus or os.cpu_count() or 1
    todo = [cell for cell in cells if not store.record_of(work, cell.name).exists()]
    if args.remeasure:
        todo += [c for c in cells if c not in todo and (work / "runs" / c.name / "train").is_dir()]
    print(f"{len(cells)} cells, {len(cells) - len(todo)} done before, {jobs} at a time", flush=True)
    waiting, running, failed, spent = list(todo), {}, [], []
    started = time.perf_counter()
    threads, free = max(1, (os.cpu_count() or 1) // jobs), list(range(jobs))
    while waiting or running:
        ahead = {cell.name for cell in (*waiting, *(cell for cell, _, _ in running.values()))}
        for cell in [c for c in waiting if as_long_as.ready(study, c, work, ahead)][: len(free)]:
            waiting.remove(cell)
            slot = free.pop(0)
            process = start(study, cell, work, args, threads, slot % gpus if gpus else None)
            running[process] = (cell, slot, time.perf_counter())
        if not running:  # only cells that wait for one that failed
            failed += [cell.name for cell in waiting]
            for cell in waiting:
                pair = f"{cell.arm.as_long_as}-{cell.seed} and {study.baseline}-{cell.seed}"
                print(f"{cell.name}: not run, it needs the times of {pair}", flush=True)
            break
        process = wait_for_one(running)
        cell, slot, began = running.pop(process)
        free.append(slot)
        spent.append(time.perf_counter() - began)
        if process.returncode:
            failed.append(cell.name)
            log = store.log_of(work, cell)
            print(f"{cell.name}: failed with code {process.returncode}, see {log}", flush=True)
        elif not (args.keep_runs or args.remeasure):
            shutil.rmtree(work / "runs" / cell.name, ignore_errors=True)
        left = len(waiting) + len(running)
        eta = left * sum(spent) / len(spent) / jobs / 60
        print(
            f"{cell.name:24} {spent[-1] / 60:5.1f} min | {len(todo) - left}/{len(todo)} | "
            f"{(time.perf_counter() - started) / 60:.0f} min, about {eta:.0f} min to go",
            flush=True,
        )
    return failed


def check_data(study: Plan, cells: list[Cell]) -> None:
    """Read what the cells are evaluated on, and find every shard they are trained on, before the
    first of them starts.

    Raises ValueError and OSError naming what is missing or cannot be used.
    """
    from sparc_pretrain.data.shards import expand
    from sparc_pretrain.pretraining.recipe import check_sources
    from sparc_pretrain.study import evaluate

    evaluate.prepare(study.evaluations)
    looked_at: set[str] = set()
    for cell in cells:
        for source in check_sources(study.cell_config(cell).data.sources):
            shards = source["shards"]
            if str(shards) not in looked_at:
                looked_at.add(str(shards))
                missing = [path for path in expand(shards) if not _there(path)]
                if missing:
                    raise FileNotFoundError(
                        f"{missing[0]} is missing ({len(missing)} in all); data.sources of "
                        f"{cell.name} names it"
                    )


def _there(tar: Any) -> bool:
    """Whether a tar can be read; of one at an address the training says so."""
    return not isinstance(tar, Path) or tar.is_file()


def start(
    study: Plan, cell: Cell, work: Path, args: argparse.Namespace, threads: int, gpu: int | None
) -> subprocess.Popen:
    """Start a cell as a process of its own: this command with --cell."""
    from sparc_pretrain.study import as_long_as, store

    folder = work / "runs" / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    ratio = as_long_as.ratio(study, cell, work) if cell.arm.as_long_as is not None else 1.0
    # also over that of a cell that was cut off: by another recipe its training refuses to go on
    study.cell_config(cell, ratio).dump(folder / "config.py")
    share = os.environ.get("OMP_NUM_THREADS", str(threads))  # what the user has set stays
    shares = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share}
    environment = {**shares, **os.environ}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
    store.log_of(work, cell).parent.mkdir(exist_ok=True)
    command = [sys.executable, __file__, *args.given, "--cell", cell.name]
    with open(store.log_of(work, cell), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def wait_for_one(running: dict[subprocess.Popen, Any]) -> subprocess.Popen:
    """The first process that ends; all are ended when the study is interrupted."""
    try:
        while True:
            for process in running:
                if process.poll() is not None:
                    return process
            time.sleep(0.3)
    except BaseException:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise


def evaluate_cell(study: Plan, name: str, work: Path, amp: bool) -> int:
    """In a process of its own: train the cell (resuming), measure it, write its record."""
    import torch

    from sparc_pretrain.study import evaluate, store, transfers
    from sparc_pretrain.zeroshot import encode, patch_reader

    cell = next(cell for cell in study.cells() if cell.name == name)
    folder = work / "runs" / cell.name
    before = store.read_record(work, name) if store.record_of(work, name).exists() else None
    cost = before["cost"] if before else train_cell(cell, folder, amp)
    model, objective = encode.load(folder / "train")
    if torch.cuda.is_available():
        model, objective = model.cuda(), objective.cuda()
    started = time.perf_counter()
    measures = evaluate.measure(model, objective, study.evaluations)
    train = [sys.executable, str(Path(__file__).with_name("train.py"))]
    measures |= transfers.measure(study.transfers, folder, cell.seed, train, amp)
    how = {
        "recipe": study.recipe_of(cell),
        "precision": "bfloat16 autocast" if amp else "float32",
    }
    if before:
        how = {key: before[key] for key in how if key in before}
    else:
        # not from the clock: a cell that was cut off and went on has taken both its parts
        minutes = cost.pop("minutes", 0) + (time.perf_counter() - started) / 60
        cost["minutes with evaluation"] = round(minutes, 2)
    how["patches_read_as"] = patch_reader.said(objective)
    how["transfers"] = {one.name: one.recipe for one in study.transfers}
    store.write_record(work, cell, measures, cost, how)
    return 0


def train_cell(cell: Cell, folder: Path, amp: bool) -> dict[str, float]:
    """Train (or only initialise) a cell in `folder`/train; returns what it cost."""
    command = [sys.executable, str(Path(__file__).with_name("pretrain.py"))]
    command += [str(folder / "config.py"), "--work-dir", str(folder / "train"), "--resume", "auto"]
    command += ["--amp"] if amp else []
    if not cell.arm.trained:
        # one step with a learning rate of zero writes the run folder of the initial weights
        command += ["--cfg-options", "schedule.steps=1", "schedule.warmup=0"]
        command += ["optim_wrapper.optimizer.lr=0.0"]
    import numpy as np

    before = len(scalars(folder))
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise ValueError(
            f"training {cell.name} ended with code {os.waitstatus_to_exitcode(status)}"
        )
    if not cell.arm.trained:
        return {}
    lines = scalars(folder)
    steady = [line["time"] for line in lines[1:] if "time" in line] or [lines[0]["time"]]
    step = float(np.median(steady))
    steps = lines[-1]["step"]
    cost = {"seconds per step": round(step, 4), "steps": steps, "minutes": step * steps / 60}
    memory = max(line.get("memory", 0) for line in lines)
    if not memory and len(lines) > before:  # a process that made no step knows nothing of them
        memory = usage.ru_maxrss / 1024
    return {**cost, "peak MB": round(memory)} if memory else cost


def scalars(folder: Path) -> list[dict[str, float]]:
    """What the training in `folder`/train has logged, all its parts."""
    paths = sorted((folder / "train").glob("*/vis_data/scalars.json"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


if __name__ == "__main__":
    cli.guard(main)
