"""An arm that is given the training time of another: when that is known, how many steps it is."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from sparc_pretrain import json_file
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.study import store
from sparc_pretrain.study.plan import Cell, Plan


def ready(study: Plan, cell: Cell, work: Path, ahead: set[str]) -> bool:
    """Whether a cell may start: one that is given another arm's time waits until the times of both
    are known, and until no seed of theirs is among the cells that are `ahead`.
    """
    if cell.arm.as_long_as is None:
        return True
    needed = (cell.arm.as_long_as, study.baseline)
    known = all(store.record_of(work, f"{name}-{cell.seed}").exists() for name in needed)
    return known and not ahead & {f"{name}-{seed}" for name in needed for seed in cell.arm.seeds}


def ratio(study: Plan, cell: Cell, work: Path) -> float:
    """The time of a step of the arm that the cell's is as long as, in steps of the baseline: the
    median over the seeds that are there. One pair, with other work beside, said .5, another 3.

    Decided once for all seeds of the arm, in ``WORK_DIR/time_ratios/ARM.json``: they get the same
    number of steps, also those that are trained when more is known.
    """
    file = work / "time_ratios" / f"{cell.arm.name}.json"
    if file.is_file():
        return float(json_file.read_object(file)["ratio"])
    ratios = []
    for seed in cell.arm.seeds:
        names = [f"{name}-{seed}" for name in (cell.arm.as_long_as, study.baseline)]
        if all(store.record_of(work, name).exists() for name in names):
            steps = [store.read_record(work, name)["cost"]["seconds per step"] for name in names]
            ratios.append(steps[0] / steps[1])
    found = median(ratios)
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, lambda out: out.write(json.dumps({"ratio": found}).encode()))
    return found
