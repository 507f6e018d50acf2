"""The hook that saves: file, manifest, pointer, and only then the old ones go."""

from __future__ import annotations

import atexit
import errno
import inspect
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMCheckpointHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from sparc_pretrain.command.cli import nearest
from sparc_pretrain.distributed import LateVote, gather_objects, rank
from sparc_pretrain.engine import checkpoint as files
from sparc_pretrain.engine import mmengine_patches, shards
from sparc_pretrain.engine.work_dir_lock import held
from sparc_pretrain.engine.writer import Writer
from sparc_pretrain.pretraining import data_spec
from sparc_pretrain.registry import HOOKS

DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
CLOCK_EVERY = 10  # steps between two looks at the clock, which are a small collective
SHOWN_KEYS = 10
WRITTEN, FAILED = 1, 2  # what the first rank tells of a save in the background


@HOOKS.register_module()
class CheckpointHook(MMCheckpointHook):
    """mmengine's CheckpointHook made safe against kills, full disks and damaged files.

    Args:
        minutes: also save when this much time has passed since the last save (rank 0's clock
            decides for all). Needs ``by_epoch=False``.
        max_keep_ckpts: how many to keep, -1 for all. With 1 there still always is a valid one: the
            old one goes after the new one is committed.
        on_full: what a full disk does: "stop" ends the run with an OSError on every rank,
            "continue" logs it and tries again at the next interval.
        allow_changes: resume although the training data is not the checkpoint's (`data_spec`).
        background: training stands still only while the state is copied in memory; a thread of the
            first rank writes it. What the thread meets is raised at the next step, one later with
            several ranks. The next save, a stop and the end of training wait for it.
        sharded: with ``strategy='fsdp2'`` every process writes its part of the optimizer's state,
            into files beside ``iter_N.pth``; else the first writes all.
        kwargs: mmengine's own (interval, by_epoch, save_best, rule, save_last, out_dir, ...).

    The config text goes into ``config_text`` for people to read: mmengine would execute what it
    finds under ``meta.cfg``. Before a save, ``gather_state`` of every hook that has it is called on
    every rank; mmengine calls ``before_save_checkpoint`` on rank 0 alone.

    Raises:
        ValueError: options that cannot work together.
    """

    def __init__(
        self,
        minutes: float | None = None,
        max_keep_ckpts: int = 2,
        on_full: Literal["stop", "continue"] = "stop",
        allow_changes: bool = False,
        background: bool = False,
        sharded: bool = False,
        **kwargs: Any,
    ) -> None:
        theirs = inspect.signature(MMCheckpointHook.__init__).parameters
        for key in kwargs:  # mmengine would keep it until the first save, and fail then
            if key not in theirs:
                raise ValueError(f"CheckpointHook takes no argument {key!r}{nearest(key, theirs)}")
        super().__init__(max_keep_ckpts=-1, **kwargs)  # mmengine would delete before it writes
        if on_full not in ("stop", "continue"):
            raise ValueError(f"on_full is {on_full!r}: choose stop or continue")
        if minutes is not None and self.by_epoch:
            raise ValueError("minutes needs by_epoch=False: epochs are resumed at their start only")
        if not files.NUMBERED.fullmatch(self.filename_tmpl.format(1)):
            raise ValueError(
                f"filename_tmpl {self.filename_tmpl!r} would not be found again: leave it out"
            )
        if max_keep_ckpts == 0:
            raise ValueError("max_keep_ckpts=0 would keep nothing: 1 or more, or -1 for all")
        self.keep, self.minutes, self.on_full = max_keep_ckpts, minutes, on_full
        self.allow_changes, self.sharded = allow_changes, sharded
        self.data_spec: dict[str, str] = {}
        self._holding = ExitStack()
        self.saved_iter: int | None = None
        self._again: tuple[int, dict] | None = None
        self.saving_best = False
        self.writer = Writer(background)
        self._written = True  # as all ranks know
        self._news, self._clock = LateVote(), LateVote()
        mmengine_patches.install()

    def before_run(self, runner: Runner) -> None:
        """Take the work dir, and note what is trained on; nothing when this is not a training.

        Raises:
            ValueError: another run writes into this work dir (on every rank).
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return
        # tools hold it since before they wrote a byte; scripts that build their own Runner do not
        self._holding.enter_context(held(runner.work_dir, wait=runner._resume))
        # a run that stops or fails never comes to after_run
        atexit.register(self._holding.close)
        self.data_spec = data_spec.describe(runner)

    def after_run(self, runner: Runner) -> None:
        """Give the work dir back."""
        self._holding.close()

    def before_train(self, runner: Runner) -> None:
        """Sweep up after a killed run, and set aside checkpoints of a future this run leaves.

        Raises ValueError for ``by_epoch=True`` in an iteration-based loop.
        """
        super().before_train(runner)
        if not self.by_epoch and isinstance(runner.train_loop, EpochBasedTrainLoop):
            runner.logger.warning("an iter_N.pth of an epoch-based loop restarts its epoch")
        if self.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                "CheckpointHook(by_epoch=True) would save only at the very end of an "
                "iteration-based loop: set by_epoch=False and an interval"
            )
        if rank() == 0:
            files.sweep(self.out_dir)
            for path in files.numbered(self.out_dir):
                if not files.committed(path):
                    runner.logger.warning(f"{path} has no manifest and will not be resumed from")
                elif files.progress(path)[0] > runner.iter:
                    aside = files.set_aside(path)
                    runner.logger.warning(
                        f"{path.name} is ahead of this run, which starts at iteration "
                        f"{runner.iter}; it is now {aside.name}"
                    )
        self.saved_iter = runner.iter or None
        self._last_save = time.monotonic()

    def after_train(self, runner: Runner) -> None:
        """Wait for the last save."""
        self.finish(runner)

    def finish(self, runner: Runner, together: bool = True) -> None:
        """Wait for a save in the background; every rank must call it, unless not `together`.

        Raises what it met, on every rank, unless a full disk is to be lived with.
        """
        if self._written:
            return
        self.writer.wait()
        failure, self._written = self.writer.failure(), True
        if together:
            self._news.take()
            if not self._saved_everywhere(runner, failure):
                self.saved_iter = None
        elif failure is not None:
            raise failure

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save by interval, at the last step, or when `minutes` have passed.

        Raises what a save in the background met.
        """
        if not self._written:
            done = rank() == 0 and not self.writer.busy
            news = self._news.cast(done and (FAILED if self.writer.failed else WRITTEN))
            if news:
                self.finish(runner)
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        step = runner.iter + 1
        if self.minutes is None or self.saved_iter == step or step % CLOCK_EVERY:
            return
        late = rank() == 0 and time.monotonic() - self._last_save >= 60 * self.minutes
        if self._clock.cast(late):
            runner.logger.info(f"Saving checkpoint at {step} iterations, after {self.minutes} min")
            self._save_checkpoint(runner)

    def save_at(self, runner: Runner, epoch: int, iteration: int) -> None:
        """Save now, unless this iteration has been saved; every rank must call it.

        Args:
            epoch: completed epochs.
            iteration: completed iterations.
        """
        if self.saved_iter != iteration:
            step = epoch if self.by_epoch else iteration
            self._save_checkpoint_with_step(runner, step, dict(epoch=epoch, iter=iteration))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the config text from where mmengine would execute it."""
        checkpoint["config_text"] = mmengine_patches.drop_config_text(checkpoint) or ""
        checkpoint[data_spec.KEY] = dict(self.data_spec)
        checkpoint[mmengine_patches.WRITER] = self.writer

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """A run resumes only with every weight in its place (mmengine skips what does not fit).

        Raises:
            ValueError: names or shapes differ, the first are listed; or the training data does.
        """
        if not runner._resume:
            return
        if not self.allow_changes:
            data_spec.check(checkpoint.get(data_spec.KEY), self.data_spec)
        if shards.SHARDS in checkpoint:  # the optimizer, which is built later, reads them
            folder = shards.folder_of(checkpoint, Path(runner._load_from))
            checkpoint["optimizer"][shards.SHARDS] = str(folder)
        model = getattr(runner.model, "module", runner.model)
        ours = {k: getattr(v, "shape", None) for k, v in model.state_dict().items()}
        theirs = {
            k.removeprefix("module."): getattr(v, "shape", None)
            for k, v in checkpoint["state_dict"].items()
        }
        wrong = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k, 0) != theirs.get(k, 0))
        if wrong:
            raise ValueError(
                f"the checkpoint to resume from is of another model: {len(wrong)} weights differ, "
                f"such as {', '.join(wrong[:SHOWN_KEYS])}; use the config it was trained with"
            )

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict, again: bool = False
    ) -> None:
        if self.saving_best:  # mmengine writes this step again after a new best one
            self._again = (step, meta)
            return
        if not again:
            self.finish(runner)  # no more than one whole state is held in memory
        runner.call_hook("gather_state")
        path = Path(self.out_dir) / self.filename_tmpl.format(step)
        runner.message_hub.update_info("last_ckpt", str(path))
        failure: Exception | None = None
        try:
            if self.sharded:
                runner.call_hook("write_shards", path=path, writer=self.writer)
            runner.save_checkpoint(
                self.out_dir,
                path.name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=dict(meta),
                by_epoch=self.by_epoch,
                **self.args,
            )
            if rank() == 0:
                self.writer.do(partial(files.commit, path, runner.work_dir, self.keep))
            runner.call_hook("after_commit")
        except Exception as error:
            failure = error
        self._begun()
        if self._saved_everywhere(runner, failure):
            self.last_ckpt, self.saved_iter = str(path), meta["iter"]
        self._clock.take()  # it was asked for a save that is done by now
        self._last_save = time.monotonic()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        self.finish(runner)
        runner.call_hook("gather_weights")
        backend, failure = files.LateRemoval(), None
        self.file_backend, self.saving_best = backend, True
        try:
            super()._save_best_checkpoint(runner, metrics)
            if rank() == 0:
                for path in backend.removed:
                    self.writer.do(partial(files.delete, path))
        except OSError as error:
            failure = error
        finally:
            self.file_backend, self.saving_best = LocalBackend(), False
        self._begun()
        again, self._again = self._again, None
        if self._saved_everywhere(runner, failure) and again is not None:
            self._save_checkpoint_with_step(runner, *again, again=True)

    def _begun(self) -> None:
        self.writer.forget()
        self._written = not self.writer.background

    def _saved_everywhere(self, runner: Runner, failure: Exception | None) -> bool:
        """Only rank 0 writes: tell the others how it went, so that none waits for a dead one."""
        full = isinstance(failure, OSError) and failure.errno in DISK_FULL
        verdicts = gather_objects(None if failure is None else (str(failure), full))
        bad = [v for v in verdicts if v is not None]
        if not bad:
            return True
        if all(disk_full for _, disk_full in bad) and self.on_full == "continue":
            runner.logger.error(f"training goes on without this checkpoint: {bad[0][0]}")
            return False
        raise failure or OSError(bad[0][0])
