"""What a captioner's checkpoint needs beside it, left in the work dir; and what it costs."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from sparc_pretrain.distributed import rank
from sparc_pretrain.registry import HOOKS


@HOOKS.register_module()
class CaptionerFilesHook(Hook):
    """Before training: the captioner leaves its language model's architecture and tokenizer in
    the work dir, and the config points there: with it and a checkpoint, a test needs nothing else.
    A test of a work dir that was moved reads what lies beside the checkpoint.
    """

    priority = "VERY_HIGH"  # before the config is copied into logs and checkpoints

    def before_train(self, runner: Runner) -> None:
        """Every process changes its config; the first writes the files."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if getattr(model, "needs_weights", False) and not (runner._resume or runner._load_from):
            raise ValueError(
                "language_model.architecture brings no weights: train with pretrained=FOLDER, or"
                " continue with --resume"
            )
        found = model.leave_files(Path(runner.work_dir), write=rank() == 0)
        for key, value in found.items():
            runner.cfg.model[key] = ConfigDict(value) if isinstance(value, dict) else value
        if rank() == 0:
            runner.dump_config()


@HOOKS.register_module()
class CostHook(Hook):
    """Logs images per second and the peak memory of training and of every evaluation."""

    def __init__(self) -> None:
        self.started, self.images = 0.0, 0

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._start()

    def before_val_epoch(self, runner: Runner) -> None:
        """Start the clock; training's numbers are told first."""
        if self.images:
            self._tell(runner, "training")
        self._start()

    before_test_epoch = before_val_epoch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count."""
        self.images += len(data_batch["inputs"])

    after_val_iter = after_test_iter = after_train_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Tell."""
        self._tell(runner, "evaluation")
        self._start()

    after_test_epoch = after_val_epoch

    def after_train(self, runner: Runner) -> None:
        """Tell, unless a validation was the last thing."""
        if self.images:
            self._tell(runner, "training")

    def _start(self) -> None:
        self.started, self.images = time.perf_counter(), 0

    def _tell(self, runner: Runner, what: str) -> None:
        pace = self.images / max(time.perf_counter() - self.started, 1e-9)
        if torch.cuda.is_available():
            peak, kind = torch.cuda.max_memory_allocated(), "GPU"
        else:  # kilobytes on Linux
            peak, kind = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "process"
        runner.logger.info(
            f"{what}: {self.images} sequences, {pace:.1f}/s on rank {rank()}, peak memory of the"
            f" {kind} {peak / 2**20:.0f} MiB"
        )
