"""Runner hooks of pre-training: the run folder, throughput, data health."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from sparc_pretrain import run_folder
from sparc_pretrain.data.dataset import DataHealth
from sparc_pretrain.distributed import gather_objects, rank, world_size
from sparc_pretrain.engine import checkpoint as files
from sparc_pretrain.engine import flops
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook
from sparc_pretrain.engine.writer import Writer
from sparc_pretrain.registry import HOOKS
from sparc_pretrain.types import Batch


@HOOKS.register_module()
class RunFolderHook(Hook):
    """Refreshes ``WORK_DIR/run`` whenever a checkpoint is saved, and ``WORK_DIR/best`` when it is
    the best one so far (`save_best` of the CheckpointHook).

    With mmengine's EMAHook among the `custom_hooks` they hold the moving average of the weights.
    What the CheckpointHook writes in the background this is written with. A training that is
    resumed at its end, from a checkpoint that came without its run folder (from a bucket, or as a
    file) or beside that of another training, saves once more.

    Args:
        every: refresh ``run`` at the first of so many saves and at the last step only.

    Raises ValueError for less than 1.
    """

    priority = "LOW"

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"RunFolderHook(every={every}): 1 or more")
        self.every, self.saves = every, 0
        self.saver: CheckpointHook | None = None
        self.resumed_at_end = False

    def before_train(self, runner: Runner) -> None:
        """Note with whom to save, and whether anything is left to train."""
        self.saver = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
        self.resumed_at_end = runner.iter >= runner.max_iters

    def after_train(self, runner: Runner) -> None:
        """The run folder of the last step is there when training ends."""
        if not self.resumed_at_end or self.saver is None:
            return
        if any(gather_objects(rank() == 0 and not self._is_of(runner, runner.iter))):
            self.saver.saved_iter = None
            self.saver.save_at(runner, runner.epoch, runner.iter)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Called by the Runner on rank 0 with the state it is about to save."""
        saver = self.saver
        best = saver is not None and saver.saving_best
        step = int(checkpoint["meta"]["iter"])
        if not best:
            self.saves += 1
            if (self.saves - 1) % self.every and step < runner.max_iters:
                return
        model, seen = _plain(runner), _pairs(runner, step)
        words = model.encoder.tokenizer
        # not the model's own: EMAHook has put its average into the checkpoint before
        writer = saver.writer if saver else Writer()
        weights = writer.own(model.run_weights(checkpoint["state_dict"]))
        content = (model.run_config(seen), weights, words.to_json() if words else None)
        place = runner.work_dir
        if best:
            writer.do(lambda: run_folder.write(Path(place) / "best", *content))
        else:
            writer.do(lambda: run_folder.publish(place, step, *content))

    def _is_of(self, runner: Runner, step: int) -> bool:
        """Whether the run folder holds, after as many pairs, the weights that were resumed from: in
        the checkpoint's file they are whole, and where there is a moving average they are it.
        """
        try:
            found = run_folder.verify(Path(runner.work_dir) / "run")
            own = found.weights()
            saved = _plain(runner).run_weights(files.weights(runner._load_from or ""))
        except (OSError, ValueError):
            return False
        same = found.config.get("samples_seen") == _pairs(runner, step)
        same = same and own.keys() == saved.keys()
        return same and all(torch.equal(own[name], value.float()) for name, value in saved.items())


def _plain(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _pairs(runner: Runner, step: int) -> int:
    return step * runner.train_dataloader.batch_size * world_size()


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs pairs/s of all ranks, the share of time spent waiting for data (%), the TFLOP/s of one
    rank and, on a GPU, `mfu_percent`: their share of what a matrix product reaches there (see
    `engine.flops`).

    All are sums over the seconds of the log's window, its last steps: a mean of the steps' rates
    would count slow steps too little. What runs between steps, such as saving, is time, but no
    waiting for data. A line tells of the steps before its own.
    """

    priority = "LOWEST"  # the clock stops behind the other hooks

    def __init__(self) -> None:
        self.ended: float | None = None
        self.waited = 0.0
        self.window: deque[tuple[float, float, float]] = deque()  # pairs, seconds, waited for data
        self.flops: float | None = None  # of training on one pair

    def before_train(self, runner: Runner) -> None:
        """The log's window, in steps; by epoch it has no end."""
        steps = runner.log_processor.window_size
        self.window = deque(maxlen=steps if isinstance(steps, int) else None)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Batch = None) -> None:
        """The batch has just arrived; of the first, its operations are counted."""
        if self.flops is None:
            self.flops = flops.per_pair(runner.model, data_batch)
        self.waited = time.perf_counter() - self.ended if self.ended is not None else 0.0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Batch = None, outputs: dict | None = None
    ) -> None:
        """The step is done."""
        now = time.perf_counter()
        if self.ended is not None:
            pairs = len(data_batch) * world_size()
            self.window.append((pairs, now - self.ended, self.waited))
            pairs, seconds, waited = map(sum, zip(*self.window, strict=True))
            hub = runner.message_hub
            hub.update_scalar("train/pairs_per_second", pairs / seconds)
            hub.update_scalar("train/data_wait_percent", 100 * waited / seconds)
            rate = self.flops * pairs / world_size() / seconds
            hub.update_scalar("train/tflops", rate / 1e12)
            if torch.cuda.is_available():
                dtype = getattr(runner.optim_wrapper, "dtype", None) or torch.float32
                reached = flops.product_rate("cuda", dtype)
                hub.update_scalar("train/mfu_percent", 100 * rate / reached)
        self.ended = now


@HOOKS.register_module()
class DataHealthHook(Hook):
    """Counts and lists the bad samples of every rank, and stops the run when there are too many.

    Args:
        max_bad: the share of bad samples that is still tolerated.
        interval: steps between exchanges of the ranks' lists.
    """

    def __init__(self, max_bad: float = 0.01, interval: int = 10) -> None:
        self.max_bad, self.interval = max_bad, interval
        self.health: DataHealth | None = None
        self.skipped: list = []
        self.seen = 0

    def before_train(self, runner: Runner) -> None:
        """Open WORK_DIR/bad_samples.jsonl, say what is trained on and list damaged shards."""
        self.health = DataHealth(Path(runner.work_dir) / "bad_samples.jsonl", self.max_bad)
        data = runner.train_dataloader.dataset
        bad_shards = data.bad_shards
        self.health.note_shards(bad_shards, write=rank() == 0)
        for name, weight, shards in zip(data.names, data.weights, data.shard_sets, strict=True):
            tars = len(shards.paths)
            runner.logger.info(
                f"source {name}: {len(shards)} pairs, {tars} tars, weight {weight:g}"
            )
        for bad in bad_shards:
            runner.logger.warning(f"{bad.shard}: {bad.reason}")
        if ignored := data.ignored:
            runner.logger.info(
                f"{ignored} members of the shards are in no pair: other kinds of files, captions"
                " without an image, or names with several dots"
            )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Batch = None, outputs: dict | None = None
    ) -> None:
        """Collect; at the interval exchange, count and judge. Raises TooManyBadSamples on every
        rank.
        """
        self.skipped += data_batch.skipped
        self.seen += len(data_batch)
        if self.every_n_train_iters(runner, self.interval):
            self._exchange(runner)

    def gather_state(self, runner: Runner) -> None:
        """Called on every rank before a checkpoint is saved."""
        self._exchange(runner)

    def after_train(self, runner: Runner) -> None:
        """What the last steps met."""
        self._exchange(runner)

    def _exchange(self, runner: Runner) -> None:
        """Count and judge what all ranks met since the last time; the first rank lists it."""
        lists = gather_objects(self.skipped)
        self.health.update(
            [bad for of_rank in lists for bad in of_rank],
            seen=self.seen * world_size(),
            write=rank() == 0,
        )
        self.skipped, self.seen = [], 0
        runner.message_hub.update_scalar("train/skipped_samples", float(self.health.bad))
