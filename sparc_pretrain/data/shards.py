"""Image-text shards: plain tars with WebDataset naming, written whole and read at random.

The naming is told in `shard_index`, which finds the samples of one tar; here are many tars.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.data import remote
from sparc_pretrain.data.address import Address
from sparc_pretrain.data.paths import expand
from sparc_pretrain.data.remote_index import open_index
from sparc_pretrain.data.shard_index import (
    IMAGE_EXTENSIONS,
    RawSample,
    ShardIndex,
    index_file,
)
from sparc_pretrain.data.shard_list import look, open_all

__all__ = [
    "Coming",
    "RawSample",
    "ShardIndex",
    "ShardSet",
    "expand",
    "open_all",
    "read_ahead",
    "read_in_turn",
    "write_shards",
]

Pair = tuple[str, bytes, str, list[str] | dict[str, Any]]  # key, image, its extension, captions
OPEN_SHARDS = 256  # file handles and maps held per process; a block of the order touches fewer
AHEAD = 128  # fewer than that, as each may lie in another tar


def write_shards(
    pairs: Iterable[Pair],
    out: str | Path,
    shard_size: int = 1000,
    prefix: str = "shard-",
    overwrite: bool = False,
) -> list[Path]:
    """Write `(key, image bytes, image extension, captions)` as `out/PREFIX000000.tar`, ... with
    indexes.

    One caption is stored as `.txt`, several as `.json` with `captions`; a dict in their place is
    the `.json` itself (see `data.elements`). Each tar appears whole or
    not at all. With `overwrite`, older tars of the same prefix that were not written again are
    deleted at the end.

    Raises FileExistsError when tars of this prefix exist, ValueError for a key with a dot, twice
    the same key in a shard, an unknown image extension, or a sample without captions.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    numbered = re.compile(re.escape(prefix) + r"\d{6,}\.tar")  # not those of a longer prefix
    old = sorted(path for path in out.iterdir() if numbered.fullmatch(path.name))
    if old and not overwrite:
        raise FileExistsError(f"{old[0]} exists already; choose another folder or pass --overwrite")
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, not {shard_size}")
    written: list[Path] = []
    pairs = iter(pairs)
    while (first := next(pairs, None)) is not None:
        path = out / f"{prefix}{len(written):06d}.tar"
        written.append(_write_tar(path, chain([first], islice(pairs, shard_size - 1))))
    for path in set(old) - set(written):
        path.unlink()
        index_file(path).unlink(missing_ok=True)
    return written


def _write_tar(path: Path, pairs: Iterable[Pair]) -> Path:
    """One tar, byte for byte a function of its pairs, then its index."""

    def write(file: BinaryIO) -> None:
        keys: set[str] = set()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, image, extension, captions in pairs:
                _check_pair(key, extension, captions, keys)
                keys.add(key)
                _add(tar, f"{key}.{extension.lower()}", image)
                if isinstance(captions, dict):
                    text = json.dumps(captions, ensure_ascii=False)
                    _add(tar, f"{key}.json", text.encode())
                elif len(captions) == 1:
                    _add(tar, f"{key}.txt", captions[0].encode())
                else:
                    text = json.dumps({"captions": captions}, ensure_ascii=False)
                    _add(tar, f"{key}.json", text.encode())

    atomic_write(path, write)
    ShardIndex.open(path)
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _check_pair(
    key: str, extension: str, captions: list[str] | dict[str, Any], taken: set[str]
) -> None:
    if not key or "." in key or "\0" in key:
        raise ValueError(f"a key must be a name without dots (WebDataset cuts there), not {key!r}")
    if key in taken:
        raise ValueError(f"key {key!r} comes twice in one shard")
    if extension.lower() not in IMAGE_EXTENSIONS:
        raise ValueError(f"{key}: unknown image extension {extension!r}; known: {IMAGE_EXTENSIONS}")
    if not captions:
        raise ValueError(f"{key}: a sample needs at least one caption")


class ShardSet:
    """Several tars as one sequence of samples; sample `i` counts through the tars in order.

    `sizes` [S] samples per tar; `bad` the tars with a problem (a truncated one is listed here and
    its whole samples are used); `ignored` members of other kinds; `without_caption`, samples that
    have none. Holds at most `OPEN_SHARDS` tars open; with `show`, a bar while they are looked at.
    Raises ValueError when no sample at all can be used.
    """

    def __init__(self, shards: str | Path | Iterable[str | Path], show: bool = False) -> None:
        found = look(shards, show)
        self.paths, self.sizes, self.bad = found.paths, found.sizes, found.bad
        self.ignored, self.without_caption = found.ignored, found.without_caption
        self.sha256 = found.sha256
        if not self.sizes.any():
            why = f"; {self.bad[0].shard}: {self.bad[0].reason}" if self.bad else ""
            raise ValueError(f"no sample in {shards}{why}")
        self._memory = found.in_memory  # would have to be built again
        self._ends = np.cumsum(self.sizes).tolist()
        self._open: OrderedDict[int, ShardIndex] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": OrderedDict()}

    def locate(self, i: int) -> tuple[int, int]:
        """Sample `i` -> (number of its tar, number in it). Raises IndexError beyond the last."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard = bisect_right(self._ends, i)
        return shard, i - (self._ends[shard - 1] if shard else 0)

    def shard(self, number: int) -> ShardIndex:
        """The opened index of a tar. Raises OSError when it cannot be read any more."""
        if number in self._memory:
            return self._memory[number]
        if number not in self._open:
            self._keep(number, open_index(self.paths[number]))
        self._open.move_to_end(number)
        return self._open[number]

    def _keep(self, number: int, index: ShardIndex) -> None:
        if len(index) != self.sizes[number]:
            raise OSError(f"{self.paths[number]} was changed while it was in use")
        self._open[number] = index
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)[1].close()

    def read(self, i: int, image: bool = True) -> RawSample:
        """Sample `i`; see `ShardIndex.read`."""
        shard, row = self.locate(i)
        return self.shard(shard).read(row, image)

    def waits(self, i: int) -> bool:
        """Whether sample `i` lies in a tar at an address."""
        return isinstance(self.paths[self.locate(i)[0]], Address)

    def opened(self, number: int) -> bool:
        """Whether the index of this tar is at hand."""
        return number in self._memory or number in self._open


def read_ahead(
    wanted: Sequence[tuple[ShardSet, int]], image: bool = True
) -> list[Callable[[], RawSample]]:
    """How to read each of some samples: those of remote tars are on their way when this returns,
    `remote.READS` at a time.

    What it gives raises as `ShardSet.read`.
    """
    found: list[Callable[[], RawSample]] = [partial(s.read, i, image) for s, i in wanted]
    waiting = [(n, *wanted[n], *wanted[n][0].locate(wanted[n][1])) for n in range(len(wanted))]
    waiting = [one for one in waiting if one[1].waits(one[2])]
    opening = {
        (id(shards), number): (shards, remote.threads().submit(open_index, shards.paths[number]))
        for shards, number in {(one[1], one[3]) for one in waiting}
        if not shards.opened(number)
    }
    lost: dict[tuple[int, int], OSError] = {}
    for (name, number), (shards, index) in opening.items():
        try:
            shards._keep(number, index.result())
        except OSError as error:
            lost[name, number] = error  # once is enough
    for n, shards, _, number, row in waiting:
        error = lost.get((id(shards), number))
        if error is None:
            try:
                later = shards.shard(number).later(row, image)
                found[n] = remote.threads().submit(later).result
            except OSError as one:
                error = one
        if error is not None:
            found[n] = partial(_fail, error)
    return found


class Coming:
    """Reads that are begun before their samples are wanted; a copy in another process has none."""

    def __init__(self) -> None:
        self._begun: dict[tuple[ShardSet, int], Callable[[], RawSample]] = {}

    def __getstate__(self) -> dict:
        return {"_begun": {}}

    def take(
        self, wanted: Sequence[tuple[ShardSet, int]], later: Sequence[tuple[ShardSet, int]] = ()
    ) -> list[Callable[[], RawSample]]:
        """`read_ahead` of `wanted`, then of as many of `later`, which the next call will want, as
        are on their way at a time: what is not wanted then is forgotten.
        """
        self._begin(wanted)
        reads = [self._begun[one] for one in wanted]
        self._begun = {}
        self._begin(later[: remote.READS])
        return reads

    def _begin(self, samples: Sequence[tuple[ShardSet, int]]) -> None:
        new = [one for one in samples if one not in self._begun]
        self._begun.update(zip(new, read_ahead(new), strict=True))


def read_in_turn(
    wanted: Iterable[tuple[ShardSet, int]], image: bool = True
) -> Iterator[Callable[[], RawSample]]:
    """`read_ahead` of any number of samples, `AHEAD` of them at a time."""
    wanted = iter(wanted)
    while some := list(islice(wanted, AHEAD)):
        yield from read_ahead(some, image)


def _fail(error: OSError) -> NoReturn:
    raise error
