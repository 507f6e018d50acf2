"""Writing files and folders so that a crash, a kill or a full disk never damages what was there."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"
DRAFT, REPLACED = ".writing", ".old"  # ends of hidden folders that a killed process may leave


def crash_point(name: str) -> None:
    """Die by SIGKILL when the environment variable SPARC_CRASH_AT names this point (for tests)."""
    if os.environ.get("SPARC_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


def atomic_write(path: str | Path, write: Callable[[BinaryIO], None], durable: bool = True) -> None:
    """Write a file so that `path` holds either its old content or all of the new one, also after a
    power cut.

    Args:
        path: the file to write; its folder must exist.
        write: fills the open temporary file, which lies in the same folder.
        durable: wait for the disk, milliseconds. Without, a power cut (no crash, no kill) may leave
            a file of neither: for what tells by a checksum of its own, and can be made again.
    """
    path = Path(path)
    # not by the process's number alone: containers that share a folder have the same ones
    draft = f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    partial = path.with_name(draft)
    try:
        with open(partial, "wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A draft folder that becomes `folder` when the block ends well, and vanishes when it does not;
    an existing `folder` is replaced by two renames, never written into: who is killed between them
    leaves it under another name, from which the next call brings it back.
    """
    folder = Path(folder)
    draft = folder.with_name(f".{folder.name}{DRAFT}")
    old = folder.with_name(f".{folder.name}{REPLACED}")
    shutil.rmtree(draft, ignore_errors=True)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    draft.mkdir(parents=True)
    try:
        yield draft
        _share(draft)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
            os.replace(draft, folder)
            shutil.rmtree(old)
        else:
            os.replace(draft, folder)
    finally:  # a full disk needs its room back
        shutil.rmtree(draft, ignore_errors=True)


def _share(folder: Path) -> None:
    """Give the files below `folder` the mode that the umask asks for, as the folder has it: some
    libraries write theirs for the owner alone (safetensors 0.8: 600).
    """
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


class HashingStream:
    """What torch.save writes to: hashes on the way, and keeps an OSError until the end, because
    torch aborts the whole process when a write fails under it.
    """

    def __init__(self, file: BinaryIO, crash_after: int) -> None:
        self.file, self.crash_after = file, crash_after
        self.size, self.sha = 0, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Pass `data` on and hash it; returns its bytes, also after a failure, kept in `error`."""
        length = memoryview(data).nbytes
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
            self.sha.update(data)
            self.size += length
            if self.size > self.crash_after:
                self.file.flush()
                crash_point("ckpt.mid_write")
        return length

    def flush(self) -> None:
        """torch.save flushes; `atomic_write` does it when an error can be raised."""
