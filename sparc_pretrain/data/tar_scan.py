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

from sparc_pretrain.data.tar_samples import BLOCK, Samples

WINDOW = 2048  # bytes read at once: a caption's header, the caption, the header behind it
WIDE, NEAR = 1 << 16, 1 << 14  # or that many, where the next header is that near
LONGEST_NAME = 1 << 16  # bytes of a long name or of a pax header; longer ones are damage
BATCH = 1024  # headers whose checksums are compared at once
FILES = frozenset(b"0\x007")  # type flags; others are sparse files, and what nobody knows
NO_DATA = frozenset(b"123456")  # links, devices, folders
EXTENDED = frozenset(b"xXgLK")  # headers of the header that follows
OCTAL = 8 ** np.arange(5, -1, -1)  # what the digits of a checksum are worth


class Scan(NamedTuple):
    """`rows` [N] records (see `row_type`), members that are no part of a sample, what is wrong with
    the tar ('' if nothing): what stands before a damaged place is used.
    """

    rows: np.ndarray
    ignored: int
    problem: str


class _Damage(ValueError):
    """Why the tar cannot be read on."""


def scan(path: str | Path) -> Scan:
    """The samples of a tar. Raises OSError when it cannot be read; damage is no error."""
    with open(path, "rb", buffering=0) as file:
        return scan_handle(file.fileno(), os.fstat(file.fileno()).st_size, os.pread)


def scan_handle(handle: Any, size: int, pread: Callable[[Any, int, int], bytes]) -> Scan:
    """The same of `size` bytes that `pread(handle, bytes, offset)` gives."""
    samples, problem = Samples(), ""
    tar = _Tar(handle, size, pread, samples.add)
    try:
        tar.walk()
    except _Damage as damage:
        problem = str(damage)
    rows = samples.packed()
    if tar.unsound or problem == "end":
        problem = f"damaged or truncated after {len(rows)} samples"
    if not len(rows) and not problem:
        problem = "no image in it"
        if ignored := samples.ignored + tar.ignored:
            problem += f" ({ignored} members of other kinds, or with several dots in their names)"
    return Scan(rows, samples.ignored + tar.ignored, problem)


class _Tar:
    """The files in a tar, one after the other, many at a time: `found` gets their names, the places
    of their headers and their sizes in bytes (-1: a header without a file of its own).

    `unsound`: a checksum does not hold; nothing from that header on is handed out.
    """

    def __init__(
        self,
        handle: Any,
        size: int,
        pread: Callable[[Any, int, int], bytes],
        found: Callable[[list[bytes], list[int], list[int]], None],
    ) -> None:
        self.handle, self.size, self.pread, self.found = handle, size, pread, found
        self.ignored = 0
        self.unsound = False
        self._headers: list[bytes] = []
        self._places: list[int] = []
        self._sizes: list[int] = []
        self._names: dict[int, bytes] = {}  # of headers whose first bytes are not the name

    def walk(self) -> None:
        """All files. Raises _Damage."""
        # the loop is what indexing costs: 3e9 pairs are 6e9 turns of it
        handle, size, pread = self.handle, self.size, self.pread
        headers, places, sizes = self._headers, self._places, self._sizes
        window, begin, at, last = b"", 0, 0, -1  # `at` in the window, which begins at `begin`
        while True:
            if not 0 <= at <= last:
                if len(headers) >= BATCH and not self._check():
                    return
                near = at - len(window) < NEAR  # members are small: many in one read
                begin, at = begin + at, 0
                window = pread(handle, WIDE if near else WINDOW, begin)
                last = len(window) - BLOCK
                if last < 0:
                    self._fail("end" if begin else "not a readable tar (empty file)")
            header = window[at : at + BLOCK]
            if header[156] == 0x30 and not header[345]:
                try:
                    length = int(header[124:135], 8)
                except ValueError:
                    length = _number(header[124:136])
                headers.append(header)
                places.append(begin + at)
                if length < 0 or begin + at + BLOCK + length > size:
                    sizes.append(-1)
                    self._too_long(_name(header), length)
                sizes.append(length)
                at += BLOCK + (length + 511 & -512)
            elif header[0] or header.strip(b"\0"):
                at = self._special(begin + at, header) - begin
            else:
                break
        self._check()

    def _special(self, at: int, header: bytes) -> int:
        """A member that is not the plain one, with all headers that belong to it -> where the next
        one begins.
        """
        name: bytes | None = None
        size: int | None = None
        sparse = False
        while True:
            self._headers.append(header)
            self._places.append(at)
            self._sizes.append(-1)
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
        if flag == 0x53:  # the map of a sparse file may go on behind the header
            more = header[482]
            while more:
                block = self.pread(self.handle, BLOCK, data)
                if len(block) < BLOCK:
                    self._fail("end")
                more, data, after = block[504], data + BLOCK, after + BLOCK
        if flag in FILES and not sparse:
            self._sizes[-1] = length
            self._names[len(self._sizes) - 1] = own
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
        """Compare the checksums of the headers read so far, and hand out what is sound."""
        if self._headers:
            every = np.frombuffer(b"".join(self._headers), np.uint8).reshape(-1, BLOCK)
            sound = _sound(every)
            self.unsound = sound < len(every)
            self.found(self._named(every[:sound]), self._places[:sound], self._sizes[:sound])
            for held in (self._headers, self._places, self._sizes, self._names):
                held.clear()
        return not self.unsound

    def _named(self, headers: np.ndarray) -> list[bytes]:
        first = np.ascontiguousarray(headers[:, :100])
        names = first.view("S100").ravel().tolist()  # without the zeros at the end
        if b"\0" in b"".join(names):
            names = [name.split(b"\0", 1)[0] for name in names]
        for n, name in self._names.items():
            names[n : n + 1] = [name] * (n < len(names))
        return names


def _sound(headers: np.ndarray) -> int:
    """How many of headers [N,512] stand before the first with a wrong checksum."""
    # no copy of all bytes: the pages of large temporary arrays cost more than the sums
    total = headers.sum(axis=1, dtype=np.uint32)
    field = headers[:, 148:156].astype(np.int64)
    digits = field[:, :6] - ord("0")
    told = digits @ OCTAL
    usual = ((digits >= 0) & (digits < 8)).all(axis=1) & (field[:, 6:] == (0, 32)).all(axis=1)
    equal = told == total - field.sum(axis=1) + 8 * 32
    for n in np.flatnonzero(~(usual & equal)).tolist():
        if not _holds(headers[n].tobytes()):
            return n
    return len(headers)


def _holds(header: bytes) -> bool:
    """Whether a header's checksum is that of its bytes, or of signed ones, as old programs sum."""
    told = int(bytes(digit for digit in header[148:156] if digit in b"01234567") or b"0", 8)
    rest = header[:148] + b" " * 8 + header[156:]
    return told in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest))


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
