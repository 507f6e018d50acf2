"""Checkpoints as files: written atomically with a manifest as commit marker, verified and found.

`NAME.pth` counts only once `NAME.pth.manifest.json` (`engine.manifest`) describes it. When a
checkpoint is written again under the same name, its manifest first lists both contents, so there is
no moment at which neither the old nor the new bytes are valid.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from mmengine.fileio import LocalBackend
from mmengine.logging import print_log
from torch import Tensor

from sparc_pretrain.atomic_file import PARTIAL, HashingStream, atomic_write, crash_point
from sparc_pretrain.engine.manifest import (
    MANIFEST,
    SHARD_FOLDER,
    SHARDS,
    CorruptCheckpoint,
    committed,
    contents,
    manifest_path,
    manifest_text,
    read_manifest,
    sha256,
    shard_folders,
    verify,
    write_manifest,
)
from sparc_pretrain.engine.plain_data import UnsafeCheckpoint, load, weights
from sparc_pretrain.json_file import read_text

__all__ = [
    "CorruptCheckpoint",
    "LateRemoval",
    "UnsafeCheckpoint",
    "atomic_write",
    "commit",
    "committed",
    "contents",
    "crash_point",
    "delete",
    "find_valid",
    "load",
    "manifest_path",
    "manifest_text",
    "numbered",
    "point_to",
    "progress",
    "save",
    "set_aside",
    "sha256",
    "sweep",
    "sweep_shards",
    "verify",
    "weights",
    "write_manifest",
]

POINTER = "last_checkpoint"
NUMBERED = re.compile(r"(?:iter|epoch)_(\d+)\.pth")


def save(
    state: dict[str, Any],
    path: str | Path,
    shards: Callable[[], list[dict[str, Any]]] | None = None,
) -> None:
    """Stream `state` to `path` atomically, then write its manifest.

    Args:
        state: what torch.save writes.
        path: ``NAME.pth``.
        shards: gives what the manifest says of the files that hold the rest of the state
            (`engine.shards`), once they are written.

    Raises:
        OSError: with the needed and the free bytes in its message; whatever `path` held before is
            then intact and still valid.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    needed = _tensor_bytes(state)
    entry: dict[str, Any] = {"file": path.name}
    meta = state.get("meta")
    if isinstance(meta, dict) and isinstance(meta.get("iter"), int):
        entry["iter"] = meta["iter"]

    def write(file: BinaryIO) -> None:
        stream = HashingStream(file, crash_after=needed // 2)
        torch.save(state, stream)
        if stream.error is not None:
            raise stream.error
        entry.update(size=stream.size, sha256=stream.sha.hexdigest())
        old = read_manifest(path)
        if old is not None and path.exists():
            write_manifest(path, {**old, "next": entry})
        file.flush()
        crash_point("ckpt.before_rename")

    if shards is not None:
        entry[SHARDS] = shards()
    before = shard_folders(path)
    try:
        atomic_write(path, write)
        crash_point("ckpt.before_manifest")
        write_manifest(path, entry)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"cannot write {path}: needs about {needed:,} bytes, {free:,} are free in its folder "
            f"({error.strerror}); earlier checkpoints are intact, make room and resume",
        ) from error
    for folder in before - shard_folders(path):
        shutil.rmtree(folder, ignore_errors=True)  # what stays, the next start sweeps up


def find_valid(work_dir: str | Path) -> Path | None:
    """The newest checkpoint of `work_dir` that passes `verify`, or None.

    Where it has none of its own, the pointer ``last_checkpoint`` hints at the folder that has them;
    it may be missing, empty or stale, and in a copied work dir it names the original's. Checkpoints
    that are passed over are logged by name.
    """
    found = numbered(work_dir)
    if not found and (hint := _read_pointer(Path(work_dir))) is not None:
        found = numbered(hint.parent)
    for path in sorted(found, key=progress, reverse=True):
        try:
            verify(path)
        except (CorruptCheckpoint, OSError) as error:
            print_log(f"checkpoint passed over: {error}", "current", logging.WARNING)
            continue
        return path
    return None


def refuse_overwriting(work_dir: str | Path) -> None:
    """A training that starts anew must not replace another's checkpoints.

    Raises:
        FileExistsError: naming the newest that is there, and the ways on.
    """
    if old := numbered(work_dir):
        raise FileExistsError(
            f"{work_dir} holds checkpoints of an earlier training, the newest {old[-1].name}: go on"
            " with it (--resume), take another --work-dir, or replace them (--force)"
        )


def numbered(folder: str | Path) -> list[Path]:
    """The files ``iter_N.pth`` and ``epoch_N.pth`` of `folder`, valid or not, oldest first."""
    if not Path(folder).is_dir():
        return []
    names = [p for p in Path(folder).iterdir() if NUMBERED.fullmatch(p.name) and p.is_file()]
    return sorted(names, key=progress)


def progress(path: Path) -> tuple[int, int]:
    """How far training was: the iteration, as its manifest says, and the number in the name."""
    match = NUMBERED.fullmatch(path.name)
    number = int(match[1]) if match else -1
    iteration = (read_manifest(path) or {}).get("iter")
    return (iteration if isinstance(iteration, int) else number, number)


def delete(path: Path) -> None:
    """Remove a checkpoint, its shards, then its manifest."""
    folders = shard_folders(path)
    path.unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    crash_point("ckpt.mid_delete")
    manifest_path(path).unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a checkpoint and its manifest to ``NAME.pth.aside``, which nothing looks for."""
    aside = path.with_name(path.name + ".aside")
    if manifest_path(path).exists():
        os.replace(manifest_path(path), manifest_path(aside))
    os.replace(path, aside)
    return aside


def sweep(folder: str | Path) -> None:
    """Remove what a killed process left: unfinished files, manifests without a checkpoint, and
    shards that no manifest lists.
    """
    for path in Path(folder).glob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)
    for path in Path(folder).glob(f"*.pth{MANIFEST}"):
        if not path.with_name(path.name.removesuffix(MANIFEST)).exists():
            path.unlink(missing_ok=True)
    sweep_shards(folder)


def sweep_shards(folder: str | Path) -> None:
    """Remove shards that no manifest lists; not while a checkpoint is written."""
    owners = [path.removesuffix(MANIFEST) for path in map(str, Path(folder).glob(f"*{MANIFEST}"))]
    owned = {shards for path in owners for shards in shard_folders(Path(path))}
    for path in set(Path(folder).glob(f"*{SHARD_FOLDER}")) - owned:
        shutil.rmtree(path, ignore_errors=True)


def point_to(path: str | Path, work_dir: str | Path) -> None:
    """Write the pointer ``last_checkpoint``."""
    atomic_write(Path(work_dir) / POINTER, lambda file: _write_text(file, str(path)))


def commit(newest: Path, work_dir: str | Path, keep: int) -> None:
    """What follows a checkpoint that is written: the pointer to it, and the deletion of older ones
    of its kind beyond `keep` (0 or less: of none).
    """
    crash_point("ckpt.before_pointer")
    point_to(newest, work_dir)
    older = [
        path
        for path in numbered(newest.parent)
        if path != newest and kind(path.name) == kind(newest.name) and committed(path)
    ]
    for path in beyond(older, keep):
        delete(path)


def kind(name: str) -> str:
    """What stands before the number in a checkpoint's name, or the name of any other file."""
    mine = NUMBERED.fullmatch(name)
    return name[: mine.start(1)] if mine else name


def is_before(name: str, newest: Path) -> bool:
    """Whether this is the name of an earlier checkpoint of the kind of `newest`."""
    number, last = NUMBERED.fullmatch(name), NUMBERED.fullmatch(newest.name)
    return bool(number and kind(name) == kind(newest.name) and int(number[1]) < int(last[1]))


def beyond(older: list[Path], keep: int) -> list[Path]:
    """Of those before the newest, oldest first, the ones to delete."""
    return older[: -(keep - 1) or None] if keep > 0 else []


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_tensor_bytes(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_tensor_bytes(v) for v in value)
    return 0


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(text.encode("utf-8"))


def _read_pointer(work_dir: Path) -> Path | None:
    try:
        text = read_text(work_dir / POINTER).strip()
    except (OSError, ValueError):
        return None
    return Path(text) if text else None


class LateRemoval(LocalBackend):
    """Notes what mmengine wants to remove, so that it goes after its successor is there."""

    def __init__(self) -> None:
        super().__init__()
        self.removed: list[Path] = []

    def remove(self, filepath: str | Path) -> None:
        self.removed.append(Path(filepath))
