"""One run per work dir: a lock file that names its process, and goes with it.

The file says host, process and when that process started. A lock whose process is dead is taken
over at once; one of another host, which cannot be asked, after ten minutes without a sign of life.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

NAME = ".lock"
BEAT = 30.0  # seconds between two signs of life
STALE = 600.0  # seconds without one after which a run of another host counts as dead


class WorkDirLock:
    """The right to write into `work_dir`; taken again by the same process at will.

    Two processes that start together cannot both have it: the file is read and written under
    flock, which is held for that moment only (a lock held by flock alone would say nothing about
    who has it, and is not kept by every network file system).
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.path = Path(work_dir) / NAME
        self.beaten = 0.0

    def take(self) -> None:
        """Raises ValueError naming the process that has the lock."""
        with open(self.path, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            owner = _parsed(file.read())
            if owner is not None and _holds(owner, os.fstat(file.fileno()).st_mtime):
                raise ValueError(
                    f"{self.path.parent} is in use by process {owner['pid']} on {owner['host']}: "
                    "two runs cannot write one work dir; wait for it, give another --work-dir, or "
                    f"remove {self.path} if that run is dead"
                )
            file.seek(0)
            file.truncate()
            file.write(json.dumps(_me()))
        self.beaten = time.monotonic()

    def beat(self) -> None:
        """A sign of life, at most one in `BEAT` seconds."""
        if time.monotonic() - self.beaten >= BEAT:
            self.beaten = time.monotonic()
            if self.path.exists():
                os.utime(self.path)

    def release(self) -> None:
        """Remove the file, if it is this process's."""
        if self.path.is_file() and _parsed(self.path.read_text("utf-8")) == _me():
            self.path.unlink()


def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "started": _started(pid)}


def _holds(owner: dict[str, Any], beaten: float) -> bool:
    """Whether `owner` is another process that is alive."""
    if owner == _me():
        return False
    if owner["host"] != socket.gethostname():
        return time.time() - beaten < STALE
    return _started(owner["pid"]) == owner["started"] is not None


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
