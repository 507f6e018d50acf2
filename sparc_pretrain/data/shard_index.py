"""Where the samples of one tar lie: found once, kept beside it, memory-mapped.

A sample is a run of neighbouring members with one key: `000123.jpg` and `000123.txt` (the caption)
or `000123.json` (`caption`: one text, `captions`: a list); of both, the `.txt` counts, and of
several images the first of jpg, jpeg, png, webp and gif. Nothing is ever unpacked to disk, links
and devices are not followed, members of other kinds are counted and left alone.

The index is `NAME.tar.index`: eight bytes that name the format, the sha256 of what follows, the
length of a JSON header, the header, the rows. No pickles, and no Python object per sample, so that
loader processes share it. One whose checksum or places do not hold is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.data.address import Address, cache
from sparc_pretrain.data.tar_samples import IMAGE_EXTENSIONS, KEY_BYTES, row_type
from sparc_pretrain.data.tar_scan import Scan, scan

__all__ = ["IMAGE_EXTENSIONS", "KEY_BYTES", "RawSample", "ShardIndex", "index_file", "places"]

SUFFIX = ".index"
FORMAT = b"SPARCIX2"
PROBED = 1 << 16
NOTHING = np.zeros(0, dtype=row_type(1))


class RawSample(NamedTuple):
    """A sample as stored: `text` is None without a caption, `is_json` says how to read it."""

    key: str
    image: bytes
    text: bytes | None
    is_json: bool


def probe(read: Callable[[int, int], bytes], size: int) -> str:
    """What tells one tar from another of the same size without reading all of it: the sha256 of
    its size and of its first, middle and last 64 KiB, by `read(bytes, offset)`.
    """
    found = hashlib.sha256(size.to_bytes(8, "little"))
    for at in (0, max(0, size // 2 - PROBED // 2), max(0, size - PROBED)):
        found.update(read(PROBED, at))
    return found.hexdigest()


def _probe(path: Path, size: int) -> str:
    with open(path, "rb", buffering=0) as file:
        return probe(partial(os.pread, file.fileno()), size)


def index_file(tar: Path) -> Path:
    """Where the index of `tar` lies, unless its folder cannot be written to."""
    return tar.with_name(tar.name + SUFFIX)


def places(tar: Path | Address) -> list[Path]:
    """Where its index may lie: beside it, if that is a folder, then in the user's cache, if there
    is a user's home.
    """
    remote = isinstance(tar, Address)
    kept = cache("shards")
    name = hashlib.sha256(os.fsencode(str(tar) if remote else tar.absolute())).hexdigest()[:32]
    beside = [] if remote else [index_file(tar)]
    return [*beside, kept / (name + SUFFIX)] if kept else beside


class ShardIndex:
    """Where each sample of one tar lies. Build it with `ShardIndex.open(path)`.

    Attributes: `path`; `problem`, '' for a sound tar; `ignored`, the members that are no part of a
    sample; `without_caption`, samples that have none; `sha256`, which tells the tar from others: of
    its size, of where its samples lie, and of its first, middle and last 64 KiB. A copy that went
    to another process opens the files there for itself.
    """

    def __init__(self, path: Path, header: dict, rows: np.ndarray, file: Path | None) -> None:
        self.path = path
        self.header = header
        self.problem: str = header["problem"]
        self.ignored: int = header["ignored"]
        self.without_caption: int = header["without_caption"]
        self.sha256: str = header["sha256"]
        self.in_memory = file is None
        self._file = file
        self._rows: np.ndarray | None = rows
        self._handle: int | None = None

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> ShardIndex:
        """The index of the tar `path`: read it, or build it when it is missing or the tar changed.

        Same size and modification time: taken at once. Same size, other time (a copied tar): taken
        when the tar's first, middle and last 64 KiB are those that were indexed. With `verify` the
        headers are read again whatever it says. The index is kept beside the tar, else in the
        user's cache, else in memory only.

        Raises FileNotFoundError or another OSError when the tar cannot be read; a damaged tar
        raises nothing, its `problem` says what is wrong.
        """
        path = Path(path)
        stat = path.stat()
        if not path.is_file():  # a pipe would be waited for
            raise OSError(f"{path} is no file")
        found = [] if verify else [(file, *read_index(file, stat.st_size)) for file in places(path)]
        found = [one for one in found if one[1] is not None]
        for file, header, rows in found:
            if header["mtime_ns"] == stat.st_mtime_ns:
                return cls(path, header, rows, file)
        probed = _probe(path, stat.st_size)
        for _, header, rows in found:
            if header["probe"] == probed:
                header["mtime_ns"] = stat.st_mtime_ns
                return cls(path, header, rows, write_index(path, header, rows))
        header, rows = described(scan(path), stat.st_size, stat.st_mtime_ns, probed)
        return cls(path, header, rows, write_index(path, header, rows))

    def __len__(self) -> int:
        return self.header["samples"]

    def __getstate__(self) -> dict:
        state = self.__dict__ | {"_handle": None}
        return state if self.in_memory else state | {"_rows": None}

    @property
    def rows(self) -> np.ndarray:
        """[N] records: key, image, image_size, text, text_size, is_json (offsets and sizes in
        bytes).
        """
        if self._rows is None:
            header, rows = read_index(self._file, self.header["size"])
            if header is None or header["sha256"] != self.sha256:
                raise OSError(f"{self._file} was changed or damaged while it was in use")
            self._rows = rows
        return self._rows

    def key(self, i: int) -> str:
        """The key of sample `i`."""
        return bytes(self.rows[i]["key"]).decode("utf-8", "replace")

    def read(self, i: int, image: bool = True) -> RawSample:
        """Sample `i`: key, image bytes (b"" without `image`), caption bytes or None, are these
        JSON.

        Raises OSError when the tar has become shorter or cannot be read.
        """
        row = self.rows[i]
        pixels = self._bytes(int(row["image"]), int(row["image_size"])) if image else b""
        has_text = row["text"] >= 0
        text = self._bytes(int(row["text"]), int(row["text_size"])) if has_text else None
        return RawSample(self.key(i), pixels, text, bool(row["is_json"]))

    def close(self) -> None:
        """Give the file handle and the map back; the next read opens them again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        if not self.in_memory:
            self._rows = None

    def _bytes(self, offset: int, size: int) -> bytes:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        data = os.pread(self._handle, size, offset)  # no shared file position: safe after a fork
        while len(data) < size:
            more = os.pread(self._handle, size - len(data), offset + len(data))
            if not more:
                raise OSError(f"{self.path} has become shorter since it was indexed")
            data += more
        return data


def described(
    found: Scan, size: int, stamp: int | None, probed: str
) -> tuple[dict[str, Any], np.ndarray]:
    """(header, rows) of a new index: what a scan has found in a tar of `size` bytes, its time or
    another number that changes with it, and its `probe`.
    """
    header = dict(size=size, mtime_ns=stamp, probe=probed, problem=found.problem)
    header |= dict(ignored=found.ignored, without_caption=int((found.rows["text"] < 0).sum()))
    header["sha256"] = identity(probed, found.rows)
    return header, found.rows


def identity(probed: str, rows: np.ndarray) -> str:
    """A tar's `sha256`."""
    return hashlib.sha256(probed.encode() + rows.tobytes()).hexdigest()


def read_index(file: Path, size: int) -> tuple[dict | None, np.ndarray]:
    """`parsed` of a file, header None also when there is none."""
    try:
        raw = np.memmap(file, np.uint8, mode="r") if file.is_file() else None
    except (OSError, ValueError):
        raw = None
    return (None, NOTHING) if raw is None else parsed(raw, size)


def parsed(raw: np.ndarray, size: int) -> tuple[dict | None, np.ndarray]:
    """(header, rows) of the bytes [n] uint8 of an index of a tar of `size` bytes, header None when
    they cannot be used: cut, foreign, damaged.
    """
    start = 48 + int.from_bytes(bytes(raw[40:48]), "little")
    if bytes(raw[:8]) != FORMAT or hashlib.sha256(raw[40:]).digest() != bytes(raw[8:40]):
        return None, NOTHING
    try:
        header = json.loads(bytes(raw[48:start]))
        width, samples = header["key_width"], header["samples"]
        if header["size"] != size or not 0 < width <= KEY_BYTES:
            return None, NOTHING
        rows = raw[start:].view(row_type(width))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, NOTHING  # somebody wrote a checksum for something else
    return (header, rows) if len(rows) == samples and _inside(rows, size) else (None, NOTHING)


def _inside(rows: np.ndarray, size: int) -> bool:
    """Whether every image and caption lies in a tar of `size` bytes."""
    image = (rows["image"] >= 0) & (rows["image_size"] >= 0)
    image &= rows["image_size"] <= size - rows["image"]
    text = (rows["text_size"] <= size - rows["text"]) & (
        (rows["text"] < 0) == (rows["text_size"] < 0)
    )
    return bool(image.all() and text.all())


def write_index(tar: Path | Address, header: dict, rows: np.ndarray) -> Path | None:
    """Store the index beside `tar` or in the cache; None when neither can be written."""
    header |= dict(samples=len(rows), key_width=rows.dtype["key"].itemsize)
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text + np.ascontiguousarray(rows).tobytes()
    whole = FORMAT + hashlib.sha256(body).digest() + body
    for file in places(tar):
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, lambda f: f.write(whole), durable=False)  # 100,000 waits otherwise
            return file
    return None
