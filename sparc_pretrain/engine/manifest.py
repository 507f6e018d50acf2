"""What a checkpoint's manifest promises: ``NAME.pth.manifest.json`` with file, size, sha256, iter;
of a sharded one also the files of its shards (`engine.shards`), with size and sha256 each.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.json_file import read_object

MANIFEST = ".manifest.json"
SHARDS = "shards"  # in a manifest: the list of their files; in a checkpoint: the folder's name
SHARD_FOLDER = ".shards"  # the end of its name
SHARD_FILE = re.compile(r"[\w.-]+\.shards/[\w-]+\.safetensors")
HASH_BLOCK = 1 << 22
KINDS = {"size": int, "sha256": str}


class CorruptCheckpoint(ValueError):
    """The file's bytes are not those its manifest promises, or it was never committed."""


def manifest_path(path: Path) -> Path:
    """Where the manifest of a checkpoint lies."""
    return path.with_name(path.name + MANIFEST)


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of the checkpoint `path`, or None when there is none that can be read."""
    try:
        return read_object(manifest_path(path))
    except (OSError, ValueError):
        return None


def write_manifest(path: Path, entry: dict[str, Any]) -> None:
    """Write the manifest of `path`."""
    text = manifest_text(entry)
    atomic_write(manifest_path(path), lambda file: file.write(text.encode("utf-8")))


def manifest_text(entry: dict[str, Any]) -> str:
    """A manifest as it is written."""
    return json.dumps(entry, indent=1)


def contents(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What a manifest says of its file: `size` and `sha256`, twice while it is written again."""
    said = [entry for entry in (manifest, manifest.get("next")) if isinstance(entry, dict)]
    return [entry for entry in said if _complete(entry)]


def verify(path: str | Path) -> None:
    """Check the size and sha256 of `path`, and of its shards, against its manifest.

    Raises:
        CorruptCheckpoint: they differ, or there is no manifest.
        FileNotFoundError: no such checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    manifest = read_manifest(path)
    if manifest is None:
        raise CorruptCheckpoint(
            f"{path} has no readable manifest ({path.name}{MANIFEST}): it was never finished"
        )
    size = path.stat().st_size
    if not any(size == entry["size"] for entry in contents(manifest)):
        raise CorruptCheckpoint(
            f"{path} is damaged: {size:,} bytes instead of {manifest.get('size')}"
        )
    sha = sha256(path)
    said = next((entry for entry in contents(manifest) if entry["sha256"] == sha), None)
    if said is None:
        raise CorruptCheckpoint(f"{path} is damaged: its sha256 is not the one in its manifest")
    if damage := _damaged_shard(path, said):
        raise CorruptCheckpoint(f"{path} is damaged: {damage}")


def committed(path: Path) -> bool:
    """Whether `path` has a manifest (a cheap look, see `verify`)."""
    return read_manifest(path) is not None


def shards(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The shards of one of the `contents`: `file` (FOLDER/NAME beside the checkpoint), `size`,
    `sha256` of each.

    Raises:
        ValueError: the manifest lists what is no such file.
    """
    listed = entry.get(SHARDS, [])
    if isinstance(listed, list) and all(map(_is_shard, listed)):
        return listed
    raise ValueError("the manifest lists shards that are no files beside the checkpoint")


def shard_folders(path: Path) -> set[Path]:
    """The folders of the shards that the manifest of the checkpoint `path` lists."""
    folders = set()
    for entry in contents(read_manifest(path) or {}):
        with suppress(ValueError):
            folders |= {path.parent / Path(shard["file"]).parent for shard in shards(entry)}
    return folders


def sha256(path: Path) -> str:
    """The sha256 of a file, read in blocks."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HASH_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def _complete(entry: dict[str, Any]) -> bool:
    return all(isinstance(entry.get(key), kind) for key, kind in KINDS.items())


def _is_shard(one: Any) -> bool:
    named = isinstance(one, dict) and SHARD_FILE.fullmatch(str(one.get("file")))
    return bool(named) and _complete(one)


def _damaged_shard(path: Path, entry: dict[str, Any]) -> str | None:
    """What is wrong with the first shard of the checkpoint `path` that is missing or is not what
    `entry`, one of the `contents`, promises; None when all are.
    """
    try:
        for shard in shards(entry):
            file = path.parent / shard["file"]
            if file.stat().st_size != shard["size"] or sha256(file) != shard["sha256"]:
                return f"{shard['file']} is not what the manifest promises"
    except (OSError, ValueError) as error:
        return str(error)
    return None
