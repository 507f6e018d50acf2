"""Files of an object store or a web server, read in ranges: s3://, gs://, https:// and http://.

obstore speaks the protocols: one wheel, whose calls let other threads run.
Retries are ours, so that an answer that breaks off is asked for again like one that never came.

No message of the library is passed on: it may quote what a server was asked with.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from fnmatch import fnmatchcase
from random import SystemRandom
from typing import Any, NamedTuple, TypeVar

from sparc_pretrain.data.address import Address, address, library

T = TypeVar("T")
READS = 32  # requests of a process that are on their way at a time
TRIES = 8
FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0  # seconds before the second try, doubled from there on
BACKOFF = timedelta(seconds=FIRST_WAIT)  # the same, of the library
PIECE = 1 << 20  # bytes of a request where all of a tar is walked through
STATUS = re.compile(r"\b([45]\d\d) [A-Z]\w+|status: ([45]\d\d)\b")
NO_RANGES = re.compile(r"non-partial|not partial", re.IGNORECASE)
NO_CREDENTIALS = re.compile(r"169\.254\.|metadata\.google|\bcredential", re.IGNORECASE)
BROKEN = "the connection failed or broke off"
DENIED = "access is denied: set the store's credentials in the environment"


class RemoteError(OSError):
    """What an address cannot give, in one line; trying again does not help."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class Lost(RemoteError):
    """The same where every try failed for what passes: the network, or a server in trouble."""


class Stat(NamedTuple):
    """Bytes of a file, and a number that changes when it does: None where the server tells no time
    and no tag.
    """

    size: int
    stamp: int | None


def expand(pattern: str) -> list[Address]:
    """The tars that one address means: itself, or, in a bucket, those of a folder (`.../`) or of a
    pattern (`*`, `?`, `[`) in its last part, by name.

    Raises ValueError for a pattern over https, which has no listing, FileNotFoundError where there
    is none, OSError as `read`.
    """
    folder, _, last = pattern.rpartition("/")
    web = pattern.startswith("http")
    marks = "*" if web else "*?["
    deep = any(mark in folder for mark in marks)
    if last and not deep and not any(mark in last for mark in marks):
        return [address(pattern)]
    if web:
        address(f"{folder}/x")  # a secret in it is not told
        raise ValueError(
            f"{folder}/: nothing is listed over http: name the tars one by one, "
            "such as shard-{000000..000999}.tar"
        )
    if deep:
        raise ValueError(f"{pattern}: only the last part of an address may be a pattern")
    place = address(f"{folder}/x")
    prefix = place.path[:-1]

    def ask(store: Any) -> list[str]:
        found = library().list_with_delimiter(store, prefix.rstrip("/") or None)
        return [one["path"].rpartition("/")[2] for one in found["objects"]]

    names = [name for name in patiently(place, ask) if fnmatchcase(name, last or "*.tar")]
    if not names:
        raise FileNotFoundError(f"{pattern}: no .tar file here; see docs/data.md")
    return [address(f"{folder}/{name}") for name in sorted(names)]


def stat(place: Address) -> Stat:
    """Its size and stamp, by a request for its first byte: what has no ranges is noticed here.

    Raises FileNotFoundError, and OSError as `read`.
    """

    def ask(store: Any) -> Stat:
        found = library().get(store, place.path, options={"range": (0, 1)})
        meta = found.meta
        len(found.bytes())  # else the connection cannot be used again
        changed, tag = int(meta["last_modified"].timestamp()), meta.get("e_tag") or ""
        told = hashlib.sha256(f"{changed} {tag}".encode()).hexdigest()
        return Stat(meta["size"], int(told[:15], 16) if changed or tag else None)

    return patiently(place, ask)


def read(place: Address, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`; fewer only where the file ends.

    Raises FileNotFoundError where there is no such file, RemoteError for what stays, such as a
    denied access, Lost when `TRIES` tries within a minute or so have failed, and ValueError in a
    process that was forked off one that has read: the library's threads are not in it.
    """
    if size <= 0:
        return b""

    def ask(store: Any) -> bytes:
        return bytes(library().get_range(store, place.path, start=offset, length=size))

    return patiently(place, ask)


def read_exactly(place: Address, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`. Raises as `read`, RemoteError also where the file ends before."""
    data = read(place, offset, size)
    if len(data) != size:
        raise RemoteError(errno.EIO, "has become shorter since it was indexed", str(place))
    return data


def read_whole(place: Address) -> bytes | None:
    """All of a small file, None where there is none, or none for us (buckets that may not be listed
    answer so). Raises OSError as `read`.
    """
    try:
        return patiently(
            place, lambda store: bytes(library().get(store, place.path).bytes()), denied=True
        )
    except FileNotFoundError:
        return None


class Pieces:
    """A file of `size` bytes that is walked through forwards, `PIECE` bytes at a time: waiting for
    a header takes longer than reading what lies before it.
    """

    def __init__(self, place: Address, size: int) -> None:
        self.place, self.size, self.begin, self.piece = place, size, 0, b""

    def pread(self, size: int, at: int) -> bytes:
        """`size` bytes from `at`, fewer where the file ends; as os.pread."""
        end = min(at + size, self.size)
        if at >= end:
            return b""
        if not self.begin <= at <= end <= self.begin + len(self.piece):
            self.piece, self.begin = read(self.place, at, max(size, PIECE)), at
        return self.piece[at - self.begin : at - self.begin + size]


class _Client:
    """The library's connections of this process, one store per bucket or host, and the threads that
    wait for them.
    """

    def __init__(self) -> None:
        self.stores: dict[tuple[str, int], Any] = {}
        self.process = os.getpid()
        self.pool: ThreadPoolExecutor | None = None

    def store(self, root: str, again: int = 0) -> Any:
        self._own()
        if (root, again) not in self.stores:
            self.stores[root, again] = _connect(*root.split("://"), again)
        return self.stores[root, again]

    def threads(self) -> ThreadPoolExecutor:
        self._own()
        if self.pool is None:
            self.pool = ThreadPoolExecutor(READS, thread_name_prefix="remote")
        return self.pool

    def _own(self) -> None:
        """Begin anew in another process; what was begun before a fork would wait for ever."""
        if self.process != os.getpid():
            if self.stores or self.pool:
                raise ValueError(
                    "a process that was forked off one that has read remote shards cannot read "
                    "any: give the loader multiprocessing_context='forkserver'"
                )
            self.__init__()


def _connect(scheme: str, host: str, again: int) -> Any:
    """The library's store of a bucket, or of a web server, where nobody signs in, whatever its name
    is; it asks `again` so often for what never came.
    """
    library()
    from obstore.store import GCSStore, HTTPStore, S3Store

    retries = dict(retry_config={"max_retries": again, "backoff": {"init_backoff": BACKOFF}})
    if scheme in ("s3", "gs"):  # options of the client, too, come from the environment
        return (S3Store if scheme == "s3" else GCSStore)(host, **retries)
    client = {"allow_http": scheme == "http"}
    return HTTPStore(f"{scheme}://{host}", client_options=client, **retries)


_client = _Client()


def threads() -> ThreadPoolExecutor:
    """`READS` threads of this process for work that waits for a store."""
    return _client.threads()


def patiently(place: Address, ask: Callable[[Any], T], denied: bool = False, again: int = 0) -> T:
    """What `ask(store)` gives, after as many tries as it takes, at most `TRIES`.

    denied: a denied access is as good as no file. again: so often the library itself repeats a
    request, of the many that one `ask` is. Raises as `read`.
    """
    wait = FIRST_WAIT
    for attempt in range(1, TRIES + 1):
        try:
            return ask(_client.store(place.root, again))
        except Exception as error:
            reason, passes = _told(error, place, denied)
        if not passes:
            raise RemoteError(errno.EIO, reason, str(place))
        if attempt < TRIES:  # not all processes at the same moment
            time.sleep(wait * (0.5 + SystemRandom().random()))
            wait = min(2 * wait, LONGEST_WAIT)
    raise Lost(errno.EIO, f"{reason} ({TRIES} tries)", str(place))


def _told(error: Exception, place: Address, denied: bool) -> tuple[str, bool]:
    """What an error of the library means, and whether it may pass. Its own words may quote secrets.

    Raises FileNotFoundError where that is what it says, and what is no error of the library.
    """
    from obstore import exceptions as known

    missing = FileNotFoundError(errno.ENOENT, "is missing", str(place))
    if isinstance(error, FileNotFoundError):
        raise missing from None
    if isinstance(error, (known.PermissionDeniedError, known.UnauthenticatedError)):
        if denied:
            raise missing from None
        return DENIED, False
    if not isinstance(error, (known.BaseError, OSError)):
        raise error
    text = str(error)
    if NO_RANGES.search(text) or isinstance(error, known.NotSupportedError):
        return "the server does not answer requests for a range of bytes", False
    if NO_CREDENTIALS.search(text):
        return "no credentials were found: set the store's variables in the environment", True
    found = STATUS.search(text)
    if found is None:
        return "timed out" if re.search(r"timed ?out", text, re.IGNORECASE) else BROKEN, True
    status = int(found[1] or found[2])
    if status in (401, 403):
        return DENIED, False
    if status == 416:
        return "is shorter than it was, or empty", False
    return f"the server answers {status}", status >= 500 or status in (408, 429)
