"""Run folders at an address: sent to a bucket as training goes on, and read from there.

`WORK_DIR/run` is kept as `run-STEP-SHA/`, never written into again once it is whole; then the file
`run.current` names it. A bucket has no links, and no move of a folder.
"""

from __future__ import annotations

import errno
import hashlib
import re
from contextlib import ExitStack
from pathlib import Path

from sparc_pretrain.atomic_file import atomic_folder
from sparc_pretrain.data import bucket
from sparc_pretrain.data.address import Address, address, cache
from sparc_pretrain.data.remote import RemoteError
from sparc_pretrain.hub_run import WANTED

CURRENT = ".current"
MANIFEST = WANTED[-1]
ATTEMPTS = 3  # where the folder that was found is replaced, and deleted, while it is read
ODD = re.compile(r"[^\w.-]+|^\.+")


def name_there(folder: Path, sha256: str) -> str:
    """What a run folder of this identity is called in a bucket."""
    return f"{folder.name}-{sha256[:8]}"


def send(folder: Path, sha256: str, place: Address, name: str, keep: int) -> None:
    """Put the whole run folder of this identity, by its `name_there`, into the folder `place` of a
    bucket, where it is the current `name`; of earlier ones as many stay that there are `keep`.

    Raises FileNotFoundError when `folder` vanishes or another takes its place, OSError when the
    bucket cannot be written.
    """
    own = name_there(folder, sha256)
    there = place.inside(own)
    with ExitStack() as stack:
        # What is open stays, whatever becomes of its name; and as the manifest is opened last, no
        # file before it is of a folder that came later.
        names = sorted({file.name for file in folder.iterdir()} & set(WANTED), key=WANTED.index)
        opened = [stack.enter_context(open(folder / one, "rb")) for one in names]
        last = opened[-1] if names[-1:] == [MANIFEST] else None
        if last is None or hashlib.file_digest(last, "sha256").hexdigest() != sha256:
            raise FileNotFoundError(errno.ENOENT, "has been replaced by another", str(folder))
        for one, file in zip(names, opened, strict=True):
            bucket.write(there.inside(one), file)
    kept = [own, *(one for one in listed(place, name) if one != own)][:keep]
    bucket.write(place.inside(name + CURRENT), "\n".join(kept).encode())
    ours = re.compile(rf"{name}(-\d+(\.1)?)?-[0-9a-f]{{8}}")
    for other in bucket.names(place)[1]:
        if ours.fullmatch(other) and other not in kept:
            gone = place.inside(other)
            for file in sorted(bucket.names(gone)[0], key=lambda file: file != MANIFEST):
                bucket.delete(gone.inside(file))


def listed(place: Address, name: str) -> list[str]:
    """The folders of `place` that are its current `name` and were before, newest first.

    Raises OSError when the bucket cannot be read.
    """
    raw = bucket.read_small(place.inside(name + CURRENT))
    lines = (raw or b"").decode("utf-8", "replace").split()
    return [line for line in lines if not ODD.search(line)]


def fetched(text: str) -> Path:
    """The folder of the user's cache with the run folder at an address: a folder of one, a work
    dir that was sent to a bucket, or `run` or `best` in it. What is in the cache is not read again.

    Raises FileNotFoundError where there is none, OSError when it cannot be read or is damaged,
    ValueError for an address that cannot be used.
    """
    text = text.rstrip("/")
    address(text + "/x")
    folder = cache("runs")
    if folder is None:
        raise ValueError(f"{text}: where to keep it? Set XDG_CACHE_HOME to a folder")
    for attempt in range(ATTEMPTS):
        place, raw = _found(Address(text))
        sha256 = hashlib.sha256(raw).hexdigest()
        above = [ODD.sub("_", part.rpartition("/")[2]) for part in (place.text, place.above.text)]
        kept = folder / sha256[:16] / above[1] / above[0]
        if (kept / MANIFEST).is_file():
            return kept
        try:
            _fetch(place, raw, kept)
            return kept
        except FileNotFoundError:  # another became the current one
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


def _found(place: Address) -> tuple[Address, bytes]:
    """The folder that is meant, and its manifest. Raises as `fetched`."""
    raw = bucket.read_small(place.inside(MANIFEST))
    if raw is not None:
        return place, raw
    inside = [(place, one) for one in listed(place, "run")[:1]]
    beside = [(place.above, one) for one in listed(place.above, place.name)[:1]]
    for above, name in inside + beside:
        raw = bucket.read_small(above.inside(name).inside(MANIFEST))
        if raw is not None:
            return above.inside(name), raw
    raise FileNotFoundError(f"{place}: no run folder is here, or none that you may read")


def _fetch(place: Address, raw: bytes, kept: Path) -> None:
    files = bucket.parsed(raw, place.inside(MANIFEST)).get("files")
    known = isinstance(files, dict) and files.keys() <= set(WANTED[:-1])
    if not known or not all(isinstance(entry, dict) for entry in files.values()):
        raise RemoteError(errno.EINVAL, "is no manifest of a run folder", f"{place}/{MANIFEST}")
    with atomic_folder(kept) as draft:
        for name, entry in files.items():
            one = entry.get("size"), str(entry.get("sha256"))
            bucket.fetch(place.inside(name), draft / name, [one])
        (draft / MANIFEST).write_bytes(raw)
