"""One run per work dir: a lock file that names its process, and goes with it.

The file says host, process, when that process started and the scheduler's job it belongs to. A lock
whose process is dead is taken over at once; one of another host, which cannot be asked, when it is
of an earlier life of the same job, or after ten minutes without a sign of life.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from sparc_pretrain.distributed import gather_objects, rank

NAME = ".lock"
BEAT = 30.0  # seconds between two signs of life
STALE = 600.0  # seconds without one after which a run of another host counts as dead
LOOK = 5.0  # seconds between two looks at a lock that is waited for
# Job -> which life of it this is. A scheduler that counts lives ends one before it starts the next.
COUNTED = {
    "SLURM_JOB_ID": "SLURM_RESTART_COUNT",
    "TORCHELASTIC_RUN_ID": "TORCHELASTIC_RESTART_COUNT",
}
SINGLE = ("SPARC_JOB_ID", "PBS_JOBID", "LSB_JOBID")  # jobs of which one life runs at a time
POD = re.compile(r"(.+)-[a-z0-9]{5}")  # Kubernetes: the pods of a job have its name and an ending


class WorkDirInUse(ValueError):
    """Another run holds the work dir; `silent` when it is on a host that cannot be asked and has
    not been seen alive, so that waiting may help.
    """

    def __init__(self, message: str, silent: bool) -> None:
        super().__init__(message)
        self.silent = silent


class WorkDirLock:
    """The right to write into `work_dir`; taken again by the same process at will.

    Two processes that start together cannot both have it: the file is read and written under
    flock, which is held for that moment only (a lock held by flock alone would say nothing about
    who has it, and is not kept by every network file system). A thread renews the file's time as
    long as the process lives.
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.path = Path(work_dir) / NAME
        self._released = threading.Event()
        self._watched: tuple[float, float] | None = None  # time of the file, first seen at

    def take(self) -> bool:
        """Whether it was not this process's before. Raises WorkDirInUse naming who has it."""
        with open(self.path, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            owner = _parsed(file.read())
            if _same(owner, _me()):
                return False
            if owner is not None:
                self._respect(owner, os.fstat(file.fileno()).st_mtime)
            file.seek(0)
            file.truncate()
            file.write(json.dumps(_me()))
        self._released.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return True

    def release(self) -> None:
        """Remove the file, if it is this process's."""
        self._released.set()
        if self.path.is_file() and _same(_parsed(self.path.read_text("utf-8")), _me()):
            self.path.unlink()

    def _respect(self, owner: dict[str, Any], beaten: float) -> None:
        """Raises WorkDirInUse when `owner`, another process, is alive or may be."""
        silent = False
        if owner["host"] == socket.gethostname():
            if not _started(owner["pid"]) == owner["started"] is not None:
                return
        else:
            now = time.monotonic()
            first = self._watched or (beaten, now)
            self._watched = first
            silent = first[0] == beaten
            # what was seen counts, too: the clocks of two hosts differ
            quiet = max(time.time() - beaten, now - first[1] if silent else 0.0)
            if quiet >= STALE or _earlier_life(owner.get("jobs"), jobs(os.environ)):
                return
        raise WorkDirInUse(
            f"{self.path.parent} is in use by process {owner['pid']} on {owner['host']}: "
            "two runs cannot write one work dir; wait for it, give another --work-dir, or "
            f"remove {self.path} if that run is dead",
            silent,
        )

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with suppress(OSError):  # of a network file system for a moment: the next one counts
                os.utime(self.path)


@contextmanager
def held(work_dir: str | Path, wait: bool) -> Iterator[None]:
    """The right to write into `work_dir` for as long as the block runs; every rank must enter, and
    rank 0 holds it for all. A block within a block changes nothing.

    Args:
        work_dir: an existing folder.
        wait: wait for a lock of another host until it is seen alive or has been silent for `STALE`
            seconds. A job that crashed and was started elsewhere has to come through: schedulers
            do not start a job again that a refusal has ended.

    Raises:
        WorkDirInUse: another run writes there (on every rank).
    """
    lock, told = WorkDirLock(work_dir), False
    while not isinstance(verdict := _verdict(lock), bool):
        if not (wait and verdict.silent):
            raise verdict
        if not told:
            print_log(
                f"{verdict}. As this one resumes, it waits for up to {STALE:.0f} s without a sign "
                "of life from there",
                "current",
                logging.WARNING,
            )
            told = True
        time.sleep(LOOK)
    try:
        yield
    finally:
        if rank() == 0 and verdict:
            lock.release()


def jobs(environment: Mapping[str, str], host: str | None = None) -> dict[str, list]:
    """The scheduler's jobs that a process of `environment` belongs to: kind -> [id, which life],
    the life None where one life is known to run at a time.
    """
    found: dict[str, list] = {}
    for kind, life in COUNTED.items():
        if environment.get(kind, "none") != "none":  # what torchrun says when it has none
            found[kind] = [environment[kind], int(environment.get(life, 0))]
    for kind in SINGLE:
        if environment.get(kind):
            found[kind] = [environment[kind], None]
    pod = POD.fullmatch(host or socket.gethostname())
    if pod and "KUBERNETES_SERVICE_HOST" in environment:
        found["Kubernetes"] = [pod[1], None]
    return found


def _earlier_life(theirs: Any, mine: dict[str, list]) -> bool:
    """Whether a lock is of a job's earlier life, which is over."""
    for kind, (name, life) in mine.items():
        known = theirs.get(kind) if isinstance(theirs, dict) else None
        if not isinstance(known, list) or len(known) != 2 or known[0] != name:
            continue
        if life is None or (isinstance(known[1], int) and known[1] < life):
            return True
    return False


def _verdict(lock: WorkDirLock) -> bool | WorkDirInUse:
    """What `take` says on rank 0, on every rank."""
    verdict: Any = None
    if rank() == 0:
        try:
            verdict = lock.take()
        except WorkDirInUse as error:
            verdict = str(error), error.silent
    verdict = gather_objects(verdict)[0]
    return verdict if isinstance(verdict, bool) else WorkDirInUse(*verdict)


def _me() -> dict[str, Any]:
    pid = os.getpid()
    started = _started(pid)
    return {"host": socket.gethostname(), "pid": pid, "started": started, "jobs": jobs(os.environ)}


def _same(one: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    """Whether two descriptions are of one process."""
    return one is not None and all(one[key] == other[key] for key in ("host", "pid", "started"))


def _started(pid: int) -> int | None:
    """When a process of this host began, in ticks since the host did; None when there is none.

    A process id alone says little: it is given again. Without /proc, 0 for every living process.
    """
    if not Path("/proc/self/stat").exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return 0
        return 0
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = text.rpartition(")")[2].split()  # the name before may hold anything
    return None if state in "ZX" else int(rest[18])  # a zombie is dead; field 22 of proc(5)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        owner = json.loads(text)
    except ValueError:
        return None  # empty, or cut by a full disk: nobody's
    known = isinstance(owner, dict) and {"host", "pid", "started"} <= owner.keys()
    return owner if known and isinstance(owner["pid"], int) else None
