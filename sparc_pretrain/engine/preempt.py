"""Stopping on request: save at a step boundary that all ranks agree on, then exit with code 75."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from mmengine.dist import get_comm_device
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from sparc_pretrain.distributed import LateVote, anywhere, barrier, gather_objects
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook
from sparc_pretrain.engine.departure import Departure, behind_first
from sparc_pretrain.registry import HOOKS

PREEMPTED = 75  # EX_TEMPFAIL: the same command with --resume auto goes on
REQUESTS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Preempted(SystemExit):
    """The run was asked to stop, has saved, and ends with exit code `PREEMPTED`."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


@HOOKS.register_module()
class PreemptHook(Hook):
    """SIGTERM, SIGUSR1 or Ctrl-C on any rank: all ranks save at the same step and exit with 75.

    A handler only sets a flag; a second Ctrl-C exits at once. During validation the run leaves at
    once if this step has been saved and the first rank is asked, else saves and leaves when
    validation ends. An epoch-based loop cannot resume within an epoch, so there the run finishes
    the epoch when that takes less than `grace`, and otherwise leaves, with its newest checkpoint as
    the point to resume from. No rank leaves before the first has saved and sent.

    Args:
        every: steps between two looks at the flag. With several ranks a look is a collective whose
            outcome is read at the next look, so that no step waits for it.
        grace: seconds an epoch-based loop may take to reach the end of its epoch.
    """

    priority = "LOWEST"  # after CheckpointHook, which may have saved this step already

    def __init__(self, every: int = 1, grace: float = 20.0) -> None:
        if every < 1:
            raise ValueError(f"PreemptHook(every={every}): 1 or more")
        self.every, self.grace = every, grace
        self.asked: signal.Signals | None = None
        self.finishing = False
        self.votes = LateVote()
        self.departure = Departure()
        self.epoch_start = 0.0
        self.previous: dict[int, Any] = {}
        self.pid = os.getpid()

    def before_train(self, runner: Runner) -> None:
        """Install the handlers; until here the default ones end the process at once.

        Raises ValueError when the run's CheckpointHook is not ours.
        """
        saver = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
        if saver is None:
            raise ValueError(
                "PreemptHook needs default_hooks.checkpoint.type='sparc.CheckpointHook'"
            )
        self.saver, self.pid = saver, os.getpid()
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning("not in the main thread: signals will not be handled")
            return
        self.previous = {number: signal.signal(number, self._note) for number in REQUESTS}

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the clock that tells how long a step takes."""
        self.epoch_start = time.monotonic()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the flag; save and leave when any rank's is set."""
        step = runner.iter + 1
        if self.finishing or step % self.every or not self.votes.cast(self.asked is not None):
            return
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            self.saver.save_at(runner, runner.epoch, step)
            self._leave(runner, f"saved at iteration {step}")
        pace = (time.monotonic() - self.epoch_start) / (batch_idx + 1)
        left = pace * (len(runner.train_dataloader) - batch_idx - 1)
        self.finishing = gather_objects(left <= self.grace)[0]
        if self.finishing:
            runner.logger.warning(
                f"asked to stop: the epoch ends in {left:.0f} s, then it is saved"
            )
            return
        barrier()
        lost = step - (self.saver.saved_iter or 0)
        self._leave(runner, f"{lost} steps since the last checkpoint will be repeated")

    def after_train_epoch(self, runner: Runner) -> None:
        """The boundary of an epoch-based loop."""
        epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if epochs and (self.finishing or self._asked_anywhere()):
            self.saver.save_at(runner, runner.epoch + 1, runner.iter)
            self._leave(runner, f"saved after epoch {runner.epoch + 1}")

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Leave a validation whose step has been saved, if the first rank does. No collective:
        ranks may have different numbers of validation batches.
        """
        saved = self.saver.saved_iter == runner.iter
        if self.asked and self.previous and saved and self.departure.begins():
            what = f"iteration {runner.iter} had been saved before validation"
            self._leave(runner, what, together=False)

    def after_val(self, runner: Runner) -> None:
        """The boundary after a validation whose step had not been saved."""
        if self.previous and self._asked_anywhere():
            self.saver.save_at(runner, runner.epoch, runner.iter)
            self._leave(runner, f"saved at iteration {runner.iter}, after validation")

    def after_train(self, runner: Runner) -> None:
        """Give the signals back."""
        self.votes.take()
        self._give_back()

    def _asked_anywhere(self) -> bool:
        return anywhere(self.asked is not None, get_comm_device())

    def _leave(self, runner: Runner, what: str, together: bool = True) -> None:
        with behind_first():
            self.saver.finish(runner, together)
            runner.call_hook("before_leave")
        name = self.asked.name if self.asked else "a signal on another rank"
        runner.logger.warning(f"stopped by {name}: {what}; to go on: --resume auto")
        self._give_back()
        raise Preempted

    def _give_back(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self.previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.pid:
            # A forked loader worker. Schedulers signal whole groups: the worker has to live on
            # until the step is done. The next such signal, from its parent, ends it.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
            return
        if number == signal.SIGINT and self.asked == signal.SIGINT:
            self._give_back()
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        before = self.previous.get(number)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)
