"""Killing a process at every moment between two changes that it makes to the disk."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

CHANGES = (
    "replace", "rename", "symlink", "link", "unlink", "remove", "rmdir", "mkdir", "chmod", "fsync",
)  # fmt: skip


def die_before_change(number: int) -> None:
    """From here on this process dies by SIGKILL just before its `number`-th change (1: the first)
    of names on a disk, or its `number`-th wait for the disk.
    """
    left = number

    def counted(change: Callable) -> Callable:
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def in_a_fork(action: Callable[[], object]) -> int:
    """Run `action` in a fork of this process; 0, 1 when it raised, or minus its last signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
