"""The stop after too many steps with a non-finite loss or gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from sparc_pretrain.distributed import rank
from sparc_pretrain.registry import HOOKS


class NonFiniteRun(ValueError):
    """Too many steps in a row had a non-finite loss or gradient."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stops after `patience` non-finite steps in a row and writes what they were to
    WORK_DIR/nonfinite_rankN.json.
    """

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Raises NonFiniteRun; the count is the same on every rank."""
        skipped = getattr(runner.optim_wrapper, "skipped_in_a_row", 0)
        if skipped:
            runner.logger.warning(f"step {runner.iter + 1}: not finite, no weight was changed")
        if skipped < self.patience:
            return
        path = Path(runner.work_dir) / f"nonfinite_rank{rank()}.json"
        record = {
            "step": runner.iter + 1,
            # as text: JSON has no NaN
            "losses": {k: str(float(v)) for k, v in (outputs or {}).items()},
            "gradient_norm": str(runner.message_hub.get_scalar("train/grad_norm").current()),
            "keys": getattr(data_batch, "key", None),
        }
        path.write_text(json.dumps(record, indent=1))
        raise NonFiniteRun(
            f"{skipped} steps in a row had a non-finite loss or gradient; see {path}. "
            "Lower the learning rate, or start again from an older checkpoint with --resume PATH"
        )
