"""Hooks that time any mmengine Runner, put into configs by the tools beside this file: its steps,
and how it begins.
"""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class StepClockHook(Hook):
    """Writes WORK_DIR/steps.json: seconds of the clock (`wall`) and of the processor (`cpu`) from
    the end of each step to that of the next.
    """

    priority = "LOWEST"  # what the other hooks do after a step is part of it

    def before_train(self, runner: Runner) -> None:
        """Nothing is measured yet."""
        self.ends: list[tuple[float, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Notes the time."""
        self.ends.append((time.perf_counter(), time.process_time()))

    def after_train(self, runner: Runner) -> None:
        """Writes the file."""
        pairs = list(zip(self.ends, self.ends[1:], strict=False))
        steps = {name: [b[i] - a[i] for a, b in pairs] for i, name in enumerate(("wall", "cpu"))}
        Path(runner.work_dir, "steps.json").write_text(json.dumps(steps))


@HOOKS.register_module()
class StartClockHook(Hook):
    """Writes WORK_DIR/start.RANK.json when the first batch is there: `seconds` since the process
    began, and `peak_mib` of resident memory until then (Linux).
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Notes both, once."""
        path = Path(runner.work_dir, f"start.{runner.rank}.json")
        if batch_idx == 0 and not path.exists():
            path.write_text(json.dumps(dict(seconds=_age(), peak_mib=_peak())))


def _age() -> float:
    """Seconds since this process began."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _peak() -> float:
    """Largest resident memory so far, in MiB: of this program, not of the one that started it, as
    `getrusage` has it.
    """
    told = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", told)[1]) / 1024
