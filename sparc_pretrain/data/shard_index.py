"""Where the samples of one tar lie: found once, kept beside it, memory-mapped.

A sample is a run of neighbouring members with one key: `000123.jpg` and `000123.txt` (the caption)
or `000123.json` (`caption`: one text, `captions`: a list); of both, the `.txt` counts. Nothing is
ever unpacked to disk, links and devices are not followed, members of other kinds are counted and
left alone. The index is `NAME.tar.index.npy`: JSON and numbers, no pickles, and no Python object
per sample, so that loader processes share it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sparc_pretrain.atomic_file import atomic_write

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")
TEXT_EXTENSIONS = ("txt", "json")
SUFFIX = ".index.npy"
VERSION = 1
KEY_BYTES = 200  # a longer key is cut in messages; samples are found by number, never by key
NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset's own split of a member's name


class RawSample(NamedTuple):
    """A sample as stored: `text` is None without a caption, `is_json` says how to read it."""

    key: str
    image: bytes
    text: bytes | None
    is_json: bool


def _scan(path: Path) -> tuple[np.ndarray, int, str]:
    """Read the headers of a tar -> (rows, ignored members, problem or '').

    Members up to a damaged place are used; the problem says what is wrong after them.
    """
    size = path.stat().st_size
    rows: list[tuple] = []
    ignored, problem = 0, ""
    row: list | None = (
        None  # key, image offset, size, text offset, size, is_json, last member's kinds
    )
    kinds: set[str] = set()

    def close() -> None:
        nonlocal ignored
        if row is not None and row[2] >= 0:
            rows.append(tuple(row))
        elif row is not None:
            ignored += 1

    try:
        with tarfile.open(path, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # tarfile would keep one object per member
                if member.size < 0 or member.offset_data + member.size > size:
                    problem = f"truncated inside {member.name!r}"
                    break
                name = NAME.match(member.name)
                extension = name[2].lower() if name else ""
                known = extension in IMAGE_EXTENSIONS or extension in TEXT_EXTENSIONS
                if not (member.isreg() and not member.issparse() and known):
                    ignored += not member.isdir()
                    continue
                kind = "image" if extension in IMAGE_EXTENSIONS else extension
                if row is None or row[0] != name[1] or kind in kinds:
                    close()
                    row, kinds = [name[1], -1, -1, -1, -1, False], set()
                kinds.add(kind)
                if kind == "image":
                    row[1:3] = member.offset_data, member.size
                elif not (kind == "json" and "txt" in kinds):
                    row[3:6] = member.offset_data, member.size, kind == "json"
            close()
            if not problem and not _ends_well(path, tar.offset):
                problem = f"damaged or truncated after {len(rows)} samples"
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        close()
        problem = f"not a readable tar ({error})"
    if not rows and not problem:
        problem = "no image in it"
        if ignored:
            problem += f" ({ignored} members of other kinds, or with several dots in their names)"
    return _pack(rows), ignored, problem


def _ends_well(path: Path, offset: int) -> bool:
    """Whether an end-of-archive block follows: tarfile stops at garbage without a word."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _pack(rows: list[tuple]) -> np.ndarray:
    keys = [row[0].encode("utf-8", "surrogateescape")[:KEY_BYTES] for row in rows]
    width = max((len(key) for key in keys), default=1)
    packed = np.zeros(len(rows), dtype=_row_type(width))
    packed["key"] = keys
    for column, name in enumerate(("image", "image_size", "text", "text_size", "is_json"), start=1):
        packed[name] = [row[column] for row in rows]
    return packed


def _row_type(key_width: int) -> np.dtype:
    places = [(name, "<i8") for name in ("image", "image_size", "text", "text_size")]
    return np.dtype([("key", f"S{max(key_width, 1)}"), *places, ("is_json", "?")])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def index_file(tar: Path) -> Path:
    """Where the index of `tar` lies, unless its folder cannot be written to."""
    return tar.with_name(tar.name + SUFFIX)


def _places(tar: Path) -> list[Path]:
    """Where its index may lie: beside it, then in the user's cache, if there is a user's home."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(tar.absolute())).hexdigest()[:32]
    in_cache = Path(cache, "sparc_pretrain", "shards", name + SUFFIX)
    return [index_file(tar), in_cache] if in_cache.is_absolute() else [index_file(tar)]


class ShardIndex:
    """Where each sample of one tar lies. Build it with `ShardIndex.open(path)`.

    Attributes: `path`; `problem`, '' for a sound tar; `ignored`, the members that are no part of a
    sample; `sha256` of the tar. A copy that went to another process opens the files there for
    itself.
    """

    def __init__(self, path: Path, header: dict, rows: np.ndarray, file: Path | None) -> None:
        self.path = path
        self.header = header
        self.problem: str = header["problem"]
        self.ignored: int = header["ignored"]
        self.sha256: str = header["sha256"]
        self.in_memory = file is None
        self._file = file
        self._rows: np.ndarray | None = rows
        self._handle: int | None = None

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> ShardIndex:
        """The index of the tar `path`: read it, or build it when it is missing or the tar changed.

        Same size and modification time: taken at once. Same size, other time (a copied tar), or
        `verify`: the sha256 decides. The index is kept beside the tar, else in the user's cache,
        else in memory only.

        Raises FileNotFoundError or another OSError when the tar cannot be read; a damaged tar
        raises nothing, its `problem` says what is wrong.
        """
        path = Path(path)
        stat = path.stat()
        found = [(file, *_read_index(file)) for file in _places(path)]
        found = [one for one in found if one[1] is not None and one[1]["size"] == stat.st_size]
        for file, header, rows in found:  # all of them, before anything is hashed
            if header["mtime_ns"] == stat.st_mtime_ns and not verify:
                return cls(path, header, rows, file)
        sha256 = _sha256(path)
        for _, header, rows in found:
            if header["sha256"] == sha256:
                header["mtime_ns"] = stat.st_mtime_ns
                return cls(path, header, rows, _write_index(path, header, rows))
        rows, ignored, problem = _scan(path)
        header = dict(version=VERSION, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
        header |= dict(sha256=sha256, problem=problem, ignored=ignored)
        return cls(path, header, rows, _write_index(path, header, rows))

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
            self._rows = _read_index(self._file)[1]
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


def _read_index(file: Path) -> tuple[dict | None, np.ndarray]:
    """(header, rows) of an index file, header None when there is none that can be used."""
    nothing = np.zeros(0, dtype=_row_type(1))
    try:
        raw = np.load(file, mmap_mode="r", allow_pickle=False)
        start = 8 + int(raw[:8].view("<i8")[0])
        header = json.loads(bytes(raw[8:start]))
        if header["version"] != VERSION:
            return None, nothing
        rows = raw[start:].view(_row_type(header["key_width"]))
        if len(rows) != header["samples"]:
            return None, nothing
        return header, rows
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None, nothing  # missing, cut or foreign: the caller builds a new one


def _write_index(tar: Path, header: dict, rows: np.ndarray) -> Path | None:
    """Store the index beside `tar` or in the cache; None when neither can be written."""
    header |= dict(samples=len(rows), key_width=rows.dtype["key"].itemsize)
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text + np.ascontiguousarray(rows).tobytes()
    packed = np.frombuffer(body, np.uint8)
    for file in _places(tar):
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, lambda f: np.save(f, packed, allow_pickle=False))
            return file
    return None
