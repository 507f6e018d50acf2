"""A hook that times the steps of any mmengine Runner: `tools/measure/bench.py` puts it into configs
that several programs train.
"""

from __future__ import annotations

import json
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
