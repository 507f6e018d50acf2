"""Folders of a bucket, s3:// or gs://: files are written, fetched, listed and deleted whole."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.data import remote
from sparc_pretrain.data.address import Address, address, is_remote, library
from sparc_pretrain.data.remote import RemoteError, patiently
from sparc_pretrain.json_file import SMALL

WRITABLE = ("s3://", "gs://")
PART = 8 << 20  # bytes of a request when a file is written or fetched
PARTS = 9_000  # S3 takes 10,000
AT_A_TIME = 4  # parts on their way
AGAIN = 5  # times that a part of a file is sent again before the whole file is
Entry = tuple[int, str]  # bytes and sha256 of a file


class Changed(RemoteError):
    """A file is not what its manifest says: it was replaced, or is damaged."""


def folder(text: str) -> Address:
    """The checked address of a folder in a bucket.

    Raises ValueError for any other, or one that holds a secret; ImportError with the remedy.
    """
    text = text.rstrip("/")
    place = address(f"{text}/x") if is_remote(text) else None  # a secret in it is not told
    if place is None or not text.startswith(WRITABLE) or place.path == "x":
        raise ValueError(f"{text}: give a folder of a bucket, s3://bucket/folder or gs://...")
    return Address(text)


def write(place: Address, data: bytes | BinaryIO) -> None:
    """Put `data`, or all of an open file, there: whole or not at all.

    Raises OSError as `remote.read`.
    """
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    size = file.seek(0, io.SEEK_END)
    part = max(PART, size // PARTS + 1)

    def ask(store: Any) -> None:
        file.seek(0)
        body = file.read() if size <= part else file
        how = dict(use_multipart=size > part, chunk_size=part, max_concurrency=AT_A_TIME)
        library().put(store, place.path, body, **how)

    try:
        patiently(place, ask, again=AGAIN)
    except FileNotFoundError:
        raise RemoteError(errno.ENOENT, "there is no such bucket", str(place)) from None


def delete(place: Address) -> None:
    """Delete a file, if it is there. Raises OSError as `remote.read`."""
    try:
        patiently(place, lambda store: library().delete(store, place.path))
    except FileNotFoundError:
        return


def names(place: Address) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder. Raises OSError as `remote.read`."""
    found = patiently(
        place, lambda store: library().list_with_delimiter(store, place.path.rstrip("/"))
    )
    files = [one["path"].rpartition("/")[2] for one in found["objects"]]
    return files, [one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"]]


def read_small(place: Address) -> bytes | None:
    """All of a small file, None where there is none, or none for us.

    Raises RemoteError for a large one, OSError as `remote.read`.
    """
    some = {"range": (0, SMALL + 1)}
    try:
        data = patiently(
            place,
            lambda store: bytes(library().get(store, place.path, options=some).bytes()),
            denied=True,
        )
    except FileNotFoundError:
        return None
    if len(data) > SMALL:
        raise RemoteError(errno.EFBIG, "has too many bytes for its kind", str(place))
    return data


def read_object(place: Address) -> dict[str, Any] | None:
    """A small JSON object. Raises as `read_small`, RemoteError for anything else."""
    raw = read_small(place)
    return None if raw is None else parsed(raw, place)


def parsed(raw: bytes, place: Address) -> dict[str, Any]:
    """The JSON object that was read from `place`. Raises RemoteError for anything else."""
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RemoteError(errno.EINVAL, "holds no JSON object", str(place))
    return found


def fetch(place: Address, path: Path, allowed: Collection[Entry]) -> Entry:
    """Write the file there to `path`, atomically, if it has one of the `allowed` sizes and sums.

    Raises FileNotFoundError, Changed, and OSError as `remote.read` or when the disk is full.
    """
    size = remote.stat(place).size
    if size not in [entry[0] for entry in allowed]:
        raise Changed(errno.EIO, f"has {size:,} bytes, not what its manifest says", str(place))
    sha = hashlib.sha256()

    def fill(file: BinaryIO) -> None:
        for piece in _pieces(place, size):
            file.write(piece)
            sha.update(piece)
        if (size, sha.hexdigest()) not in list(allowed):
            raise Changed(errno.EIO, "its sha256 is not what its manifest says", str(place))

    atomic_write(path, fill)
    return size, sha.hexdigest()


def _pieces(place: Address, size: int) -> Iterator[bytes]:
    """A file from its beginning, `AT_A_TIME` requests ahead."""
    begins = iter(range(0, size, PART))
    coming = []
    while True:
        for at in islice(begins, AT_A_TIME - len(coming)):
            count = min(PART, size - at)
            coming.append(remote.threads().submit(remote.read_exactly, place, at, count))
        if not coming:
            return
        yield coming.pop(0).result()
