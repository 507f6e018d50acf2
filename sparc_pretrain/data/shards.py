"""Image-text shards: plain tars with WebDataset naming, indexed once and then read at random.

A sample is a run of neighbouring members with one key: `000123.jpg` and `000123.txt` (the caption) or
`000123.json` (`caption`: one text, `captions`: a list); of both, the `.txt` counts. Nothing is ever
unpacked to disk, links and devices are not followed, members of other kinds are counted and left alone.
The index lies beside its tar as `NAME.tar.index.npy`, holds numbers only (no pickles) and is memory-mapped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import glob
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from braceexpand import braceexpand

from sparc_pretrain.types import BadSample

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")
TEXT_EXTENSIONS = ("txt", "json")
SUFFIX = ".index.npy"
VERSION = 1
KEY_BYTES = 200  # a longer key is cut in messages; samples are found by number, never by key
OPEN_SHARDS = 64  # file handles and maps held per process; a block of the order touches fewer
NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")  # webdataset's own split of a member's name


class RawSample(NamedTuple):
    """A sample as stored: `text` is None without a caption, `is_json` says how to read it."""

    key: str
    image: bytes
    text: bytes | None
    is_json: bool


# -------------------------------------------------------------------- writing


def write_shards(
    pairs: Iterable[tuple[str, bytes, str, list[str]]],
    out: str | Path,
    shard_size: int = 1000,
    prefix: str = "shard-",
    overwrite: bool = False,
) -> list[Path]:
    """Write `(key, image bytes, image extension, captions)` as `out/PREFIX000000.tar`, ... with indexes.

    One caption is stored as `.txt`, several as `.json` with `captions`. Each tar appears whole or not at
    all. With `overwrite`, older tars of the same prefix that were not written again are deleted at the end.

    Raises FileExistsError when tars of this prefix exist, ValueError for a key with a dot, twice the same
    key in a shard, an unknown image extension, or a sample without captions.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    old = sorted(out.glob(f"{prefix}[0-9]*.tar"))
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
        _beside(path).unlink(missing_ok=True)
    return written


def _write_tar(path: Path, pairs: Iterable[tuple[str, bytes, str, list[str]]]) -> Path:
    """One tar, byte for byte a function of its pairs, then its index."""

    def write(file: BinaryIO) -> None:
        keys: set[str] = set()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for key, image, extension, captions in pairs:
                _check_pair(key, extension, captions, keys)
                keys.add(key)
                _add(tar, f"{key}.{extension.lower()}", image)
                if len(captions) == 1:
                    _add(tar, f"{key}.txt", captions[0].encode())
                else:
                    text = json.dumps({"captions": captions}, ensure_ascii=False)
                    _add(tar, f"{key}.json", text.encode())

    _replace(path, write)
    ShardIndex.open(path)
    return path


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _check_pair(key: str, extension: str, captions: list[str], taken: set[str]) -> None:
    if not key or "." in key or "\0" in key:
        raise ValueError(f"a key must be a name without dots (WebDataset cuts there), not {key!r}")
    if key in taken:
        raise ValueError(f"key {key!r} comes twice in one shard")
    if extension.lower() not in IMAGE_EXTENSIONS:
        raise ValueError(f"{key}: unknown image extension {extension!r}; known: {IMAGE_EXTENSIONS}")
    if not captions:
        raise ValueError(f"{key}: a sample needs at least one caption")


def _replace(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a temporary file that then takes the place of `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------- indexing


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
    return np.dtype(
        [("key", f"S{max(key_width, 1)}"), ("image", "<i8"), ("image_size", "<i8")]
        + [("text", "<i8"), ("text_size", "<i8"), ("is_json", "?")]
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(tar: Path) -> Path:
    return tar.with_name(tar.name + SUFFIX)


def _in_cache(tar: Path) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(os.fsencode(tar.absolute())).hexdigest()[:32]
    return cache / "sparc_pretrain" / "shards" / (name + SUFFIX)


class ShardIndex:
    """Where each sample of one tar lies. Build it with `ShardIndex.open(path)`.

    Attributes: `path`; `problem`, '' for a sound tar; `ignored`, the members that are no part of a sample;
    `sha256` of the tar. A copy that went to another process opens the files there for itself.
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

        Same size and modification time: taken at once. Same size, other time (a copied tar), or `verify`:
        the sha256 decides. The index is kept beside the tar, else in the user's cache, else in memory only.

        Raises FileNotFoundError or another OSError when the tar cannot be read; a damaged tar raises
        nothing, its `problem` says what is wrong.
        """
        path = Path(path)
        stat = path.stat()
        for file in (_beside(path), _in_cache(path)):
            header, rows = _read_index(file)
            if header is None or header["size"] != stat.st_size:
                continue
            if header["mtime_ns"] == stat.st_mtime_ns and not verify:
                return cls(path, header, rows, file)
            if header["sha256"] == _sha256(path):
                header["mtime_ns"] = stat.st_mtime_ns
                return cls(path, header, rows, _write_index(path, header, rows))
        rows, ignored, problem = _scan(path)
        header = dict(version=VERSION, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
        header |= dict(sha256=_sha256(path), problem=problem, ignored=ignored)
        return cls(path, header, rows, _write_index(path, header, rows))

    def __len__(self) -> int:
        return self.header["samples"]

    def __getstate__(self) -> dict:
        state = self.__dict__ | {"_handle": None}
        return state if self.in_memory else state | {"_rows": None}

    @property
    def rows(self) -> np.ndarray:
        """[N] records: key, image, image_size, text, text_size, is_json (offsets and sizes in bytes)."""
        if self._rows is None:
            self._rows = _read_index(self._file)[1]
        return self._rows

    def key(self, i: int) -> str:
        """The key of sample `i`."""
        return bytes(self.rows[i]["key"]).decode("utf-8", "replace")

    def read(self, i: int, image: bool = True) -> RawSample:
        """Sample `i`: key, image bytes (b"" without `image`), caption bytes or None, are these JSON.

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
    for file in (_beside(tar), _in_cache(tar)):
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            _replace(file, lambda f: np.save(f, np.frombuffer(body, np.uint8), allow_pickle=False))
            return file
    return None


# ---------------------------------------------------------------- many shards


def expand(shards: str | Path | Iterable[str | Path]) -> list[Path]:
    """Paths meant by a tar, a folder of tars, a pattern (`*`, `?`, `{000..009}`) or a list of these.

    Raises ValueError for `pipe:`, `http:` and other addresses, and FileNotFoundError when a folder or a
    `*` pattern holds no tar. A missing tar named one by one is not an error here.
    """
    if not isinstance(shards, (str, Path)):
        return [path for one in shards for path in expand(one)]
    found: list[Path] = []
    for name in braceexpand(str(shards)):
        if re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:", name):
            raise ValueError(f"{name}: shards must be local files; copy them to disk first")
        path = Path(name).expanduser()
        if path.is_dir():
            matches = sorted(path.glob("*.tar"))
        elif any(mark in name for mark in "*?["):
            matches = sorted(Path(match) for match in glob(str(path)))
        else:
            found.append(path)
            continue
        if not matches:
            raise FileNotFoundError(f"{name}: no .tar file here; make shards with tools/data.py")
        found += matches
    return found


class ShardSet:
    """Several tars as one sequence of samples; sample `i` counts through the tars in order.

    `sizes` [S] samples per tar; `bad` the tars with a problem (a truncated one is listed here and its
    whole samples are used); `ignored` members of other kinds. Holds at most `OPEN_SHARDS` tars open.
    Raises ValueError when no sample at all can be used.
    """

    def __init__(self, shards: str | Path | Iterable[str | Path]) -> None:
        self.paths = expand(shards)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            opened = list(pool.map(_open_or_problem, self.paths))
        self.bad: list[BadSample] = []
        self.ignored = 0
        sizes = np.zeros(len(self.paths), dtype=np.int64)
        digest = hashlib.sha256()
        self._memory: dict[int, ShardIndex] = {}
        for i, (path, index) in enumerate(zip(self.paths, opened, strict=True)):
            problem = index if isinstance(index, str) else index.problem
            if problem:
                self.bad.append(BadSample(str(path), "", problem))
            if isinstance(index, str):
                continue
            sizes[i] = len(index)
            self.ignored += index.ignored
            digest.update(f"{path.name} {index.sha256}\n".encode())
            if index.in_memory:
                self._memory[i] = index  # would have to be built again
        if not sizes.any():
            why = f"; {self.bad[0].shard}: {self.bad[0].reason}" if self.bad else ""
            raise ValueError(f"no sample in {shards}{why}")
        self.sizes = sizes
        self.sha256 = digest.hexdigest()
        self._ends = np.cumsum(sizes).tolist()
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
            index = ShardIndex.open(self.paths[number])
            if len(index) != self.sizes[number]:
                raise OSError(f"{self.paths[number]} was changed while it was in use")
            self._open[number] = index
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]

    def read(self, i: int, image: bool = True) -> RawSample:
        """Sample `i`; see `ShardIndex.read`."""
        shard, row = self.locate(i)
        return self.shard(shard).read(row, image)


def _open_or_problem(path: Path) -> ShardIndex | str:
    try:
        index = ShardIndex.open(path)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    index.close()
    return index
