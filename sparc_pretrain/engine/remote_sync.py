"""A copy of a work dir in a bucket, kept beside training: checkpoints, run folders, logs.

There a checkpoint counts only once `last_checkpoint` names it, which is written after the file and
its manifest; a run folder once `run.current` (or `best.current`) does. So whoever reads the bucket,
after a kill at any moment too, finds a whole one.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from sparc_pretrain import json_file, remote_run, run_folder
from sparc_pretrain.data import bucket
from sparc_pretrain.data.address import Address
from sparc_pretrain.distributed import rank
from sparc_pretrain.engine import checkpoint as files
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook
from sparc_pretrain.engine.writer import Writer
from sparc_pretrain.registry import HOOKS

SMALL_FILES = ("tokenizer.json", "tokenizer.spec.json", "bad_samples.jsonl", "*.py")
LOGS = re.compile(r"\d{8}_\d{6}")  # mmengine's folder of a start
ATTEMPTS = 3  # where what is being sent is replaced by what is newer
KEPT_RUNS = 2  # in the bucket: who has begun to read one before the next came reads on
Mark = tuple[int, int, int]  # which file it is, as long as nobody writes into it


class RemoteSync:
    """Sends what is new in `work_dir` to the folder `place` of a bucket, in a thread of its own.

    Args:
        keep: how many checkpoints stay there, as `CheckpointHook.max_keep_ckpts`.

    A failure is logged, and tried again with the next call of `ask`. A process that ends waits.
    """

    def __init__(self, work_dir: str | Path, place: Address, keep: int = -1) -> None:
        self.work_dir, self.place, self.keep = Path(work_dir), place, keep
        self.failure: Exception | None = None
        self._thread, self._asked = Writer(background=True), False
        self._sent: dict[str, Mark | str] = {}  # name -> what is there under it

    def ask(self) -> None:
        """Send what there is, soon; returns at once."""
        if not self._asked:  # else a call is waiting that will see it
            self._asked = True
            try:
                self._thread.do(self._attempt)
            except RuntimeError:  # the interpreter is ending, and begins nothing any more
                self._attempt()

    def finish(self) -> Exception | None:
        """Wait until all is there, trying once more what fails; else why it is not."""
        for _ in range(2):
            self.ask()
            self._thread.wait()
            if self.failure is None:
                break
        return self._thread.failure() or self.failure

    def _attempt(self) -> None:
        self._asked, started = False, time.monotonic()
        try:
            new = self.send()
        except (OSError, ValueError) as error:
            self.failure = error
            print_log(
                f"not sent to {self.place}: {error}. Training goes on, the next save tries again",
                "current",
                logging.WARNING,
            )
            return
        self.failure = None
        if new:
            took = time.monotonic() - started
            print_log(f"sent to {self.place} in {took:.0f} s: {', '.join(new)}", "current")

    def send(self) -> list[str]:
        """Send what is new, now; the names of checkpoints and run folders.

        Raises OSError when the bucket cannot be written, ValueError for a damaged run folder.
        """
        self._small_files()
        new = self._settled(self._checkpoints)
        for name in ("run", "best"):
            new += self._settled(partial(self._run, name))
        return new

    def _settled(self, send: Callable[[], list[str]]) -> list[str]:
        """What `send` gives when nothing vanishes under it: training replaces and deletes."""
        for _ in range(ATTEMPTS - 1):
            with suppress(FileNotFoundError, run_folder.InvalidRunFolder):
                return send()
        return send()

    def _small_files(self) -> None:
        found = [path for name in SMALL_FILES for path in self.work_dir.glob(name)]
        for logs in self.work_dir.iterdir():
            found += logs.rglob("*") if LOGS.fullmatch(logs.name) else []
        for path in filter(Path.is_file, found):
            mark = _mark(path.stat())
            name = path.relative_to(self.work_dir).as_posix()
            if self._sent.get(name) != mark:
                bucket.write(self.place.inside(name), path.read_bytes())
                self._sent[name] = mark

    def _checkpoints(self) -> list[str]:
        """The newest first, so that the marker is not late; then those before it."""
        mine = [path for path in files.numbered(self.work_dir) if files.committed(path)]
        if not mine:
            return []
        newest = mine.pop()
        new = [newest.name] if self._checkpoint(newest) else []
        if self._sent.get(files.POINTER) != newest.name:
            bucket.write(self.place.inside(files.POINTER), newest.name.encode())
            self._sent[files.POINTER] = newest.name
        mine = [path for path in mine if files.kind(path.name) == files.kind(newest.name)]
        gone = files.beyond(mine, self.keep)
        new += [path.name for path in mine if path not in gone and self._checkpoint(path)]
        there = [
            Path(name) for name in bucket.names(self.place)[0] if files.is_before(name, newest)
        ]
        for path in files.beyond(sorted(there, key=files.progress), self.keep):
            for name in (path.name, files.manifest_path(path).name):
                bucket.delete(self.place.inside(name))
            self._sent.pop(path.name, None)
        return new

    def _checkpoint(self, path: Path) -> bool:
        """Whether it had to be sent. Raises FileNotFoundError when it is replaced meanwhile."""
        manifest = self.place.inside(files.manifest_path(path).name)
        with open(path, "rb") as file:  # what is open stays, whatever becomes of its name
            mark = _mark(os.fstat(file.fileno()))
            if self._sent.get(path.name) == mark:
                return False
            mine = json_file.read_object(files.manifest_path(path))
            there = bucket.read_object(manifest)
            is_there = "next" not in mine and there == mine
            if not is_there:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                said = [one for one in files.contents(mine) if one["sha256"] == sha256]
                if not said:
                    raise FileNotFoundError(errno.ENOENT, "is being written anew", str(path))
                entry = {key: value for key, value in said[0].items() if key != "next"}
                if there is not None:  # either content is right until the new one is there
                    both = files.manifest_text({**there, "next": entry})
                    bucket.write(manifest, both.encode())
                bucket.write(self.place.inside(path.name), file)
                bucket.write(manifest, files.manifest_text(entry).encode())
            self._sent[path.name] = mark
        return not is_there

    def _run(self, name: str) -> list[str]:
        """The run folder `name` of the work dir, if it is new."""
        if not (self.work_dir / name / run_folder.MANIFEST).is_file():
            return []
        run = run_folder.open_run(self.work_dir / name)
        if self._sent.get(name) == run.sha256:
            return []
        own = remote_run.name_there(run.path, run.sha256)
        is_there = remote_run.listed(self.place, name)[:1] == [own]
        if not is_there:
            remote_run.send(run.path, run.sha256, self.place, name, KEPT_RUNS)
        self._sent[name] = run.sha256
        return [] if is_there else [own]


@HOOKS.register_module()
class RemoteSyncHook(Hook):
    """Keeps a copy of the work dir in a bucket; the first rank sends, in a thread, what a save has
    left: see `RemoteSync`. The recipe adds it for `remote_sync` of a config.

    A failure is a warning, and training goes on. What is not there when training ends is tried once
    more; then the run, which is whole on disk, ends with an OSError.

    Args:
        address: a folder of a bucket, `s3://bucket/runs/sparc`.

    Raises ValueError for an address that cannot be used, or that holds a secret.
    """

    priority = "LOWEST"  # behind what saves, and behind the last word of other ranks

    def __init__(self, address: str) -> None:
        self.place = bucket.folder(address)
        self.sync: RemoteSync | None = None
        self.saver: CheckpointHook | None = None

    def before_train(self, runner: Runner) -> None:
        """Send what an earlier life of this run could not.

        Raises ValueError when the run's CheckpointHook is not ours, or writes what is not sent.
        """
        self.saver = next((h for h in runner.hooks if isinstance(h, CheckpointHook)), None)
        if self.saver is None:
            raise ValueError(
                "remote_sync needs default_hooks.checkpoint.type='sparc.CheckpointHook'"
            )
        if self.saver.sharded:
            raise ValueError(
                "remote_sync sends whole checkpoints: leave default_hooks.checkpoint.sharded out"
            )
        if rank() == 0:
            self.sync = RemoteSync(runner.work_dir, self.place, self.saver.keep)
            self.sync.ask()

    def after_commit(self, runner: Runner) -> None:
        """Called on every rank when a checkpoint is, or will be, written and committed."""
        if self.sync is not None:
            self.saver.writer.do(self.sync.ask)

    def before_leave(self, runner: Runner) -> None:
        """Called when a stopped run has saved: wait for what is on its way, and say if it fails."""
        failure = self.sync.finish() if self.sync else None
        if failure is not None:
            runner.logger.error(
                f"what was saved last is in {runner.work_dir} alone, not in {self.place}: {failure}"
            )

    def after_run(self, runner: Runner) -> None:
        """Wait for what is on its way. Raises OSError when it does not arrive."""
        failure = self.sync.finish() if self.sync else None
        if failure is not None:
            raise OSError(
                f"training is done and whole in {runner.work_dir}, but not in {self.place} "
                f"({failure}): the same command with --resume auto sends what is missing"
            ) from failure


def _mark(state: os.stat_result) -> Mark:
    return state.st_ino, state.st_mtime_ns, state.st_size
