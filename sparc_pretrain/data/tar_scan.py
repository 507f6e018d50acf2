"""Where the samples of a tar lie, from its headers alone, at a microsecond or two of CPU for each.

Read are ustar, GNU (long names, base-256 sizes, sparse files) and pax headers (POSIX.1-2017, pax
Interchange Format; GNU tar's manual, "Basic Tar Format"), 512 bytes at a time: nothing that a
header says is allocated, and what it says of sizes is compared with the size of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif")
KEY_BYTES = 200  # a longer key is cut in messages; samples are found by number, never by key
BLOCK = 512
WINDOW = 2048  # bytes read at once: a caption's header, the caption, the header behind it
WIDE, NEAR = 1 << 16, 1 << 14  # or that many, where the next header is that near
LONGEST_NAME = 1 << 16  # bytes of a long name or of a pax header; longer ones are damage
BATCH = 4096  # headers whose checksums are compared at once
FILES = frozenset(b"0\x007")  # type flags; others are sparse files, and what nobody knows
NO_DATA = frozenset(b"123456")  # links, devices, folders
EXTENDED = frozenset(b"xXgLK")  # headers of the header that follows
KINDS = {kind.encode(): kind for kind in (*IMAGE_EXTENSIONS, "txt", "json")}
PREFERENCE = {kind: n for n, kind in enumerate(IMAGE_EXTENSIONS)}
NOWHERE = (-1, -1)
PLACES = ("image", "image_size", "text", "text_size", "is_json")


class Scan(NamedTuple):
    """`rows` [N] records (see `row_type`), members that are no part of a sample, what is wrong with
    the tar ('' if nothing): what stands before a damaged place is used.
    """

    rows: np.ndarray
    ignored: int
    problem: str


class _Damage(ValueError):
    """Why the tar cannot be read on."""


def row_type(key_width: int) -> np.dtype:
    """A sample: key, places and sizes of its image and caption in bytes (-1: no caption), is the
    caption JSON.
    """
    places = ((name, "<i8") for name in PLACES[:4])
    return np.dtype([("key", f"S{max(key_width, 1)}"), *places, ("is_json", "?")])


def scan(path: str | Path) -> Scan:
    """The samples of a tar. Raises OSError when it cannot be read; damage is no error."""
    with open(path, "rb", buffering=0) as file:
        return scan_handle(file.fileno(), os.fstat(file.fileno()).st_size, os.pread)


def scan_handle(handle: Any, size: int, pread: Callable[[Any, int, int], bytes]) -> Scan:
    """The same of `size` bytes that `pread(handle, bytes, offset)` gives."""
    tar, samples, problem = _Tar(handle, size, pread), _Samples(), ""
    try:
        tar.walk(samples.add)
    except _Damage as damage:
        problem = str(damage)
    if tar.unsound is not None:  # the last batch of members cannot be trusted
        samples.cut(tar.unsound)
    samples.close()
    rows = samples.packed()
    if tar.unsound is not None or problem == "end":
        problem = f"damaged or truncated after {len(rows)} samples"
    if not len(rows) and not problem:
        problem = "no image in it"
        if ignored := samples.ignored + tar.ignored:
            problem += f" ({ignored} members of other kinds, or with several dots in their names)"
    return Scan(rows, samples.ignored + tar.ignored, problem)


class _Tar:
    """The files in a tar, one after the other; `unsound` is the offset of a header whose checksum
    does not hold, which may be noticed some members later.
    """

    def __init__(self, handle: Any, size: int, pread: Callable[[Any, int, int], bytes]) -> None:
        self.handle, self.size, self.pread = handle, size, pread
        self.ignored = 0
        self.unsound: int | None = None
        self._headers: list[bytes] = []
        self._places: list[int] = []

    def walk(self, found: Callable[[bytes, int, int], None]) -> None:
        """Call `found` with (name, offset, size in bytes) of each file. Raises _Damage."""
        # the loop is what indexing costs: 3e9 pairs are 6e9 turns of it
        handle, headers, places, pread = self.handle, self._headers, self._places, self.pread
        window, begin, end, at = b"", 0, -1, 0
        while True:
            if not begin <= at <= end:
                near = at - begin - len(window) < NEAR  # members are small: many in one read
                window, begin = pread(handle, WIDE if near else WINDOW, at), at
                end = begin + len(window) - BLOCK
            header = window[at - begin : at - begin + BLOCK]
            if not begin <= at <= end or not header[0]:
                if len(header) == BLOCK and not header.strip(b"\0"):
                    break
                if len(header) < BLOCK:
                    self._fail("end" if at else "not a readable tar (empty file)")
            headers.append(header)
            places.append(at)
            if len(headers) >= BATCH and not self._check():
                return
            data = at + BLOCK
            if header[156] == 0x30 and not header[345] and 0x30 <= header[124] <= 0x37:
                try:
                    length = int(header[124:135], 8)
                except ValueError:
                    length = _number(header[124:136])
                nul = header.find(0, 0, 100)
                name = header[:nul] if nul >= 0 else header[:100]
                if length < 0 or data + length > self.size:
                    self._too_long(name, length)
                if name[-1:] == b"/":
                    self.ignored += 1
                else:
                    found(name, data, length)
                at = data + (length + 511 & -512)
            else:
                at = self._special(at, header, found)
        self._check()

    def _special(self, at: int, header: bytes, found: Callable[[bytes, int, int], None]) -> int:
        """A member that is not the plain one, with all headers that belong to it -> where the next
        one begins.
        """
        name: bytes | None = None
        size: int | None = None
        sparse = False
        while True:
            flag, data = header[156], at + BLOCK
            length = _number(header[124:136]) if size is None or flag in EXTENDED else size
            own = name if name is not None else _name(header)
            if flag in NO_DATA:
                self.ignored += flag != 0x35  # folders are no members
                return data
            if length < 0 or data + length > self.size:
                self._too_long(own, length)
            after = data + -(-length // BLOCK) * BLOCK
            if flag not in EXTENDED:
                break
            if flag in b"xXL" and length > LONGEST_NAME:
                self._fail(f"a name of {length} bytes")
            if flag == 0x4C:
                name = self.pread(self.handle, length, data).split(b"\0", 1)[0]
            elif flag in b"xX":
                given = self._pax(self.pread(self.handle, length, data))
                name, size = given.get(b"path", name), given.get(b"size", size)
                sparse = sparse or any(key.startswith(b"GNU.sparse") for key in given)
            at, header = after, self.pread(self.handle, BLOCK, after)
            if len(header) < BLOCK:
                self._fail("end")
            self._headers.append(header)
            self._places.append(at)
        if flag == 0x53:  # the map of a sparse file may go on behind the header
            more = header[482]
            while more:
                block = self.pread(self.handle, BLOCK, data)
                if len(block) < BLOCK:
                    self._fail("end")
                more, data, after = block[504], data + BLOCK, after + BLOCK
        if flag in FILES and not sparse and own[-1:] != b"/":
            found(own, data, length)
        else:
            self.ignored += 1
        return after

    def _too_long(self, name: bytes, length: int) -> None:
        named = name.decode("utf-8", "replace")
        self._fail("a size below zero" if length < 0 else f"truncated inside {named!r}")

    def _fail(self, why: str) -> NoReturn:
        """Raise _Damage, of the checksum if that is what is wrong."""
        raise _Damage(why if self._check() else "end")

    def _pax(self, body: bytes) -> dict[bytes, bytes | int]:
        found: dict[bytes, bytes | int] = {}
        try:
            while body.strip(b"\0"):
                length = int(body[: body.index(b" ")])
                record = body[:length]
                if not 5 <= length <= len(body) or record[-1:] != b"\n":
                    raise ValueError
                key, _, value = record[record.index(b" ") + 1 : -1].partition(b"=")
                found[key] = int(value) if key == b"size" else value
                body = body[length:]
        except ValueError:
            self._fail("a pax header that cannot be read")
        return found

    def _check(self) -> bool:
        """Compare the checksums of the headers read so far."""
        if not self._headers:
            return self.unsound is None
        every = np.frombuffer(b"".join(self._headers), np.uint8).reshape(-1, BLOCK)
        told = np.zeros(len(every), np.int64)
        for column in range(148, 156):
            digit = every[:, column].astype(np.int64) - 48
            told = np.where((digit >= 0) & (digit < 8), told * 8 + digit, told)
        words, lanes = every.view("<u8"), np.uint64(0x00FF00FF00FF00FF)
        sums = ((words & lanes) + (words >> np.uint64(8) & lanes)).sum(axis=1)
        total = sum(
            (sums >> np.uint64(16 * n) & np.uint64(0xFFFF)).astype(np.int64) for n in range(4)
        )
        field = every[:, 148:156].sum(axis=1, dtype=np.int64)
        wrong = np.flatnonzero(total - field + 8 * 32 != told)
        for n in wrong.tolist():  # old programs summed signed bytes
            signed = every[n].view(np.int8).astype(np.int64)
            if signed.sum() - signed[148:156].sum() + 8 * 32 != told[n]:
                self.unsound = self._places[n]
                break
        self._headers.clear()
        self._places.clear()
        return self.unsound is None


def _number(field: bytes) -> int:
    """A size: octal digits, or GNU's base 256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        return value - (1 << 95) if field[0] == 0x80 else -1
    try:
        return int(field.split(b"\0", 1)[0] or b"0", 8)
    except ValueError:
        return -1


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


class _Samples:
    """Members grouped: neighbours of one key are a sample; of several images the first of
    IMAGE_EXTENSIONS counts, as a mask `x.png` beside the photograph `x.jpg` is none.
    """

    def __init__(self) -> None:
        self.ignored = 0
        self.rows: list[tuple] = []
        self._key: bytes | None = None
        self._found: dict[str, tuple[int, int]] = {}

    def add(self, name: bytes, offset: int, size: int) -> None:
        base = name.rfind(b"/") + 1
        dot = name.find(b".", base)
        kind = KINDS.get(name[dot + 1 :]) or KINDS.get(name[dot + 1 :].lower())
        if kind is None or dot <= base:
            self.ignored += 1
            return
        key = name[:dot]
        if key != self._key or kind in self._found:
            if self._found:
                self.close()
            self._key = key
        self._found[kind] = (offset, size)

    def close(self) -> None:
        """The members since the last call are a sample, or none."""
        found, self._found = self._found, {}
        if not found:
            return
        text, data = found.pop("txt", None), found.pop("json", None)
        image = found.popitem()[1] if len(found) == 1 else self._preferred(found)
        if image is None:
            self.ignored += 1
        else:
            self.rows.append(
                (self._key[:KEY_BYTES], *image, *(text or data or NOWHERE), not text and bool(data))
            )

    def _preferred(self, images: dict[str, tuple[int, int]]) -> tuple[int, int] | None:
        if not images:
            return None
        self.ignored += len(images) - 1
        return images[min(images, key=PREFERENCE.__getitem__)]

    def cut(self, offset: int) -> None:
        """Forget what lies at or behind `offset`."""
        self._found = {k: place for k, place in self._found.items() if place[0] < offset}
        while self.rows and max(self.rows[-1][1], self.rows[-1][3]) >= offset:
            self.rows.pop()

    def packed(self) -> np.ndarray:
        width = max((len(row[0]) for row in self.rows), default=1)
        rows = np.zeros(len(self.rows), dtype=row_type(width))
        for name, column in zip(("key", *PLACES), zip(*self.rows, strict=True), strict=False):
            rows[name] = column
        return rows
