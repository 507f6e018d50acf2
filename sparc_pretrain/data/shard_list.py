"""All tars of a list: where they lie and what is in them, known from one file for the list, so that
a training that begins need not open them one by one; one process looks and tells the others.

The file is `shards-NAME.list`, NAME a hash of the paths, beside the first tar, else in the user's
cache: 64 letters, the sha256 of what follows, and a row of JSON for every tar. A row counts as long
as its tar has the size and the time in it; of others the tar's own index is opened, or made, so
that what was killed in the middle goes on there.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.data import remote
from sparc_pretrain.data.address import Address, is_remote
from sparc_pretrain.data.paths import Paths, Shards, expand
from sparc_pretrain.data.remote_index import open_index
from sparc_pretrain.data.shard_index import ShardIndex, places
from sparc_pretrain.types import BadSample

T = TypeVar("T")
Place = str | Path | Address
LISTED = 16  # tars from which a list has a file
BAR_DELAY = 3  # seconds
THREADS = 8  # that look at tars on disks; many wait for a network
TOGETHER = 64  # tars on disks that a thread looks at before it is asked again
MANY = 64  # tars without an index from which on they are read by processes: that is computing


@dataclass
class ShardList:
    """`sizes` [S] samples of the tars `paths`; `bad` those with a problem; `ignored` members of
    other kinds and `without_caption` samples, of all; `sha256` of the content; `in_memory` indexes
    that no disk would take.
    """

    paths: Paths
    sizes: np.ndarray
    bad: list[BadSample]
    ignored: int
    without_caption: int
    sha256: str
    in_memory: dict[int, ShardIndex] = field(default_factory=dict)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"in_memory": {}}


_told: dict[str, ShardList] = {}  # what another process has looked at for this one


def tell(lists: dict[str, ShardList]) -> None:
    """From here on `look` believes these lists, by their `name`, instead of the disk."""
    _told.update(lists)


def name(shards: Shards) -> str:
    """What `tell` knows shards by."""
    return str(shards) if isinstance(shards, (str, Path)) else str([str(one) for one in shards])


def look(shards: Shards, show: bool = False) -> ShardList:
    """What is known of `shards`, after a look at each tar's size and time.

    Args:
        show: a bar, when opening tars takes more than a few seconds.

    Raises as `expand`.
    """
    if name(shards) in _told:
        return _told[name(shards)]
    paths = expand(shards)
    stamps = _of_each(_stamp, paths.text)
    rows = _read(paths) if len(paths) >= LISTED else {}
    rows = {n: row for n, row in rows.items() if row[0] is not None and row[0] == stamps[n]}
    new = [n for n in range(len(paths)) if n not in rows]
    opened = dict(zip(new, open_all([paths[n] for n in new], show), strict=True))
    rows |= {n: _row(stamps[n], index) for n, index in opened.items()}
    if new and len(paths) >= LISTED:
        _write(paths, [rows[n] for n in range(len(paths))])
    digest, bad = hashlib.sha256(), []
    for n, path in enumerate(paths.text):
        _, problem, _, _, _, sha256 = rows[n]
        if problem:
            bad.append(BadSample(path, "", problem))
        if sha256:
            called = paths[n].name if is_remote(path) else path.rpartition(os.sep)[2]
            digest.update(f"{called} {sha256}\n".encode())
    counts = np.array([rows[n][2:5] for n in range(len(paths))], dtype=np.int64).reshape(-1, 3)
    ignored, without_caption = counts[:, 1:].sum(axis=0).tolist()
    kept = {n: one for n, one in opened.items() if isinstance(one, ShardIndex) and one.in_memory}
    sizes = counts[:, 0].copy()
    return ShardList(paths, sizes, bad, ignored, without_caption, digest.hexdigest(), kept)


def _threads(paths: Sequence[Place]) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(remote.READS if _far(paths) else THREADS)


def _far(paths: Sequence[Place]) -> bool:
    return any(map(is_remote, paths))


def _of_each(work: Callable[[Place], T], paths: Sequence[Place]) -> list[T]:
    """`work` of every path, by threads, which take many at a time where none waits for a network:
    to hand one over costs more than to look at it.
    """
    each = 1 if _far(paths) else TOGETHER
    parts = [paths[n : n + each] for n in range(0, len(paths), each)]
    with _threads(paths) as pool:
        return list(chain.from_iterable(pool.map(lambda part: [work(one) for one in part], parts)))


def _stamp(path: str) -> list[int] | None:
    """Size and time of a tar; None = it cannot be asked, or does not tell."""
    try:
        if is_remote(path):
            size, stamp = remote.stat(Address(path))
            return None if stamp is None else [size, stamp]
        stat = os.stat(path)
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _row(stamp: list[int] | None, index: ShardIndex | str) -> list[Any]:
    """[stamp, problem, samples, ignored, without caption, sha256] of a tar."""
    if isinstance(index, str):
        return [None, index, 0, 0, 0, ""]  # to be looked at again the next time
    counts = [len(index), index.ignored, index.without_caption]
    return [stamp, index.problem, *counts, index.sha256]


def _files(paths: Paths) -> list[Path]:
    here = os.getcwd()
    joined = "\n".join(one if is_remote(one) else os.path.join(here, one) for one in paths.text)
    found = hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    first = paths[0]
    far = isinstance(first, Address)
    beside = first.beside(f"-{found}") if far else first.with_name(f"shards-{found}")
    return [place.with_suffix(".list") for place in places(beside)]


def _read(paths: Paths) -> dict[int, list[Any]]:
    """The rows of the list's file by number; none when there is none that can be used."""
    for file in filter(Path.is_file, _files(paths)):  # a pipe would be waited for
        with suppress(OSError, ValueError, TypeError):
            sha256, _, text = file.read_bytes().partition(b"\n")
            rows = json.loads(text) if hashlib.sha256(text).hexdigest().encode() == sha256 else []
            if len(rows) == len(paths) and all(len(row) == 6 for row in rows):
                return dict(enumerate(rows))
    return {}


def _write(paths: Paths, rows: list[list[Any]]) -> None:
    text = json.dumps(rows, separators=(",", ":")).encode()
    whole = hashlib.sha256(text).hexdigest().encode() + b"\n" + text
    for file in _files(paths):
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, lambda f: f.write(whole))
            return


def open_all(paths: Sequence[Path | Address], show: bool = False) -> list[ShardIndex | str]:
    """The (closed) index of each tar, built where there is none, or what is wrong with it; with
    `show`, a bar when that takes more than a few seconds.
    """
    known = _of_each(lambda path: any(p.is_file() for p in places(path)), paths)
    cores = len(os.sched_getaffinity(0))
    if known.count(False) >= MANY and cores > 1 and not _far(paths):
        pool = ProcessPoolExecutor(cores, mp_context=get_context("spawn"))
    else:
        pool = _threads(paths)
    with pool:
        found = pool.map(_open_or_problem, paths, chunksize=MANY // 4)
        bar = tqdm(found, "indexing", len(paths), unit=" tars", disable=not show, delay=BAR_DELAY)
        return list(bar)


def _open_or_problem(path: Path | Address) -> ShardIndex | str:
    try:
        index = open_index(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    index.close()
    return index
