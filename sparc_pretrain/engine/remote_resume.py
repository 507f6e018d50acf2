"""Going on, on another machine, with a training whose work dir was sent to a bucket."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mmengine.logging import print_log

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.data import bucket
from sparc_pretrain.data.address import Address, address, is_remote
from sparc_pretrain.engine import checkpoint as files

STARTED = "started"
WORDS = ("tokenizer.json", "tokenizer.spec.json")
ATTEMPTS = 3  # where a checkpoint is replaced, and deleted, while it is read


def prepare(
    work_dir: Path, remote: str | None, resume: str | None, force: bool = False
) -> str | None:
    """`resume` for a work dir on disk, after what it needs was fetched.

    Args:
        remote: where the work dir is sent to, None for nowhere; it is proved here that this can be
            written. resume: None, "auto" (the newest checkpoint, of the work dir or of `remote`),
            a path, or an address: of a checkpoint, or of a work dir in a bucket. force: what is at
            `remote` does not count any more.

    Raises:
        FileExistsError: a new training, where another's checkpoints are. FileNotFoundError: none
            at the address. files.CorruptCheckpoint: one that is damaged. OSError: a bucket that
            cannot be read or written. ValueError: an address that cannot be used.
    """
    if remote is not None:
        place = bucket.folder(remote)
        if resume == "auto":
            _newer(place, work_dir)
        elif resume is None and force:
            bucket.delete(place.inside(files.POINTER))
        elif resume is None and (name := _marked(place)):
            raise FileExistsError(
                f"{remote} holds checkpoints of an earlier training, the newest {name}: go on with "
                "it (--resume), take another --remote-sync, or replace them (--force)"
            )
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        bucket.write(place.inside(STARTED), now.encode())
    if resume is None or not is_remote(resume):
        return resume
    if resume.endswith(".pth"):
        file = address(resume)
        return str(_fetch(file.above, file.name, work_dir))
    place = Address(address(resume.rstrip("/") + "/x").above.text)
    for attempt in range(ATTEMPTS):
        if (name := _read_marker(place)) is None:
            raise FileNotFoundError(f"{resume}: no checkpoint is here that was sent whole")
        with suppress(*([FileNotFoundError, bucket.Changed] if attempt < ATTEMPTS - 1 else [])):
            return str(_fetch(place, name, work_dir))
    raise AssertionError


def _newer(place: Address, work_dir: Path) -> None:
    """Fetch the last checkpoint that was sent, if the work dir has none that is as far."""
    for attempt in range(ATTEMPTS):
        if (name := _marked(place)) is None:
            return
        manifest = bucket.read_object(place.inside(name + files.MANIFEST)) or {}
        here = files.find_valid(work_dir)
        there = manifest.get("iter")
        if here and not (isinstance(there, int) and there > files.progress(here)[0]):
            return
        with suppress(*([FileNotFoundError, bucket.Changed] if attempt < ATTEMPTS - 1 else [])):
            _fetch(place, name, work_dir)
            return


def _marked(place: Address) -> str | None:
    """As `_read_marker`, sure that there is none where it says so: a denied access is an error."""
    return _read_marker(place) if files.POINTER in bucket.names(place)[0] else None


def _read_marker(place: Address) -> str | None:
    """The name of the last checkpoint that was sent whole."""
    raw = bucket.read_small(place.inside(files.POINTER))
    name = (raw or b"").decode("utf-8", "replace").strip()
    return name if files.NUMBERED.fullmatch(name) else None


def _fetch(place: Address, name: str, work_dir: Path) -> Path:
    """Write a checkpoint to the work dir, as its manifest says it is, and its vocabulary."""
    if not files.NUMBERED.fullmatch(name):
        raise ValueError(f"{place}/{name}: a checkpoint is called iter_N.pth or epoch_N.pth")
    manifest = bucket.read_object(place.inside(name + files.MANIFEST))
    if manifest is None:
        raise FileNotFoundError(f"{place}/{name} has no manifest: it was never sent whole")
    said = {(entry["size"], entry["sha256"]): entry for entry in files.contents(manifest)}
    path = work_dir / name
    print_log(f"fetching {place}/{name}", "current")
    found = bucket.fetch(place.inside(name), path, said)
    entry = {key: value for key, value in said[found].items() if key != "next"}
    files.write_manifest(path, {**entry, "file": name})
    for word in WORDS:
        raw = None if (work_dir / word).exists() else bucket.read_small(place.inside(word))
        if raw is not None:
            atomic_write(work_dir / word, lambda file, raw=raw: file.write(raw))
    return path
