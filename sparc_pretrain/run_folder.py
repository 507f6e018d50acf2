"""The one format that travels: a folder with config.json, model.safetensors, tokenizer.json,
README.md and manifest.json.

Files and dicts only; who makes modules of them is `dual_encoder` (pre-training, zero-shot) and
`transfer.backbone`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparc_pretrain import json_file, remote_run, run_config, shipped
from sparc_pretrain.atomic_file import DRAFT, REPLACED, atomic_folder
from sparc_pretrain.data.address import is_remote
from sparc_pretrain.model_card import model_card

FORMAT = 1
OURS = re.compile(r"run-\d+(\.1)?")
OS_ERROR = re.compile(r"os error (\d+)")
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
CARD, MANIFEST = "README.md", "manifest.json"
LARGEST_TOKENIZER = 64 << 20  # bytes
STORED = (torch.float32, torch.float16)  # dtypes of weights in a folder


class InvalidRunFolder(ValueError):
    """The folder is not a run folder, is incomplete, or its bytes are not those of its manifest."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder that was opened: its path (symlinks resolved), config and identity (sha256 of
    manifest.json).
    """

    path: Path
    config: dict[str, Any]
    sha256: str

    def weights(self, prefix: str = "") -> dict[str, Tensor]:
        """The tensors whose name starts with `prefix`, the prefix cut off, in float32 (a folder
        may hold them in float16, see `convert.half`).

        Raises InvalidRunFolder: the file is cut off or damaged, or a number in it is none.
        """
        found = self._read(prefix, lambda file, name: file.get_tensor(name))
        for name, tensor in found.items():
            if tensor.dtype not in STORED or not tensor.isfinite().all():
                raise InvalidRunFolder(
                    f"{self.path / WEIGHTS}: {prefix}{name} holds NaN, infinity or other than "
                    "float32 or float16: these weights compute nothing"
                )
        return {name: tensor.float() for name, tensor in found.items()}

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """The shapes of `weights`, out of the file's header; raises alike."""
        return self._read(prefix, lambda file, name: tuple(file.get_slice(name).get_shape()))

    def _read(self, prefix: str, get: Callable[[Any, str], Any]) -> dict[str, Any]:
        place = self.path / WEIGHTS
        if not place.is_file():  # a pipe would be waited for
            raise InvalidRunFolder(f"{place} is missing")
        try:
            with safe_open(place, framework="pt") as file:
                names = [n for n in file.keys() if n.startswith(prefix)]  # noqa: SIM118 (no dict)
                return {n.removeprefix(prefix): get(file, n) for n in names}
        except (SafetensorError, OSError) as error:
            raise InvalidRunFolder(f"{place} cannot be read: {error}") from None

    @property
    def name(self) -> str:
        """A short name for tables: the work dir's and the folder's."""
        return f"{self.path.parent.name}/{self.path.name}"


def open_run(folder: str | Path) -> RunFolder:
    """Open a run folder, a work dir that holds ``run``, by its name a model that ships, or one at
    an address (`remote_run.fetched`).

    Raises:
        FileNotFoundError: no such folder. InvalidRunFolder: not a run folder, or an unknown
            format version. OSError: an address that cannot be read.
    """
    path = remote_run.fetched(str(folder)) if is_remote(folder) else Path(folder)
    if not (path / MANIFEST).exists() and (path / "run" / MANIFEST).exists():
        path = path / "run"
    if not path.exists():
        path = shipped.models().get(str(folder), path)
    if not path.exists():
        ours = ", ".join(shipped.models()) or "none"
        told = f"pre-training writes WORK_DIR/run; models that ship: {ours}"
        raise FileNotFoundError(f"no run folder at {folder}: {told}")
    path = path.resolve()
    for name in (MANIFEST, CONFIG):
        if not (path / name).is_file():
            raise InvalidRunFolder(f"{path} is not a run folder: {name} is missing")
    _object(path / MANIFEST)
    manifest, config = (path / MANIFEST).read_bytes(), _object(path / CONFIG)
    if config.get("format") != FORMAT:
        raise InvalidRunFolder(
            f"{path / CONFIG}: format {config.get('format')!r} where this code reads {FORMAT}"
        )
    try:
        run_config.check(config)
    except ValueError as error:
        raise InvalidRunFolder(f"{path / CONFIG}: {error}") from None
    # of training, not of the tower: folders written before version 0.2 say it
    (config["vision"].get("overrides") or {}).pop("patch_drop_rate", None)
    if (path / TOKENIZER).is_file():
        words = _object(path / TOKENIZER, LARGEST_TOKENIZER)
        try:
            run_config.check_words(config, words)
        except ValueError as error:
            raise InvalidRunFolder(f"{path / TOKENIZER}: {error}") from None
    return RunFolder(path, config, hashlib.sha256(manifest).hexdigest())


def verify(folder: str | Path) -> RunFolder:
    """Check every byte of a run folder against its manifest; files whose names begin with a dot do
    not count.

    Raises:
        InvalidRunFolder: naming the first file that is missing, changed, unreadable or not in the
            manifest.
    """
    run = open_run(folder)
    manifest = run.path / MANIFEST
    told = _object(manifest)
    listed = told.get("files")
    if told.get("format") != FORMAT or not isinstance(listed, dict):
        raise InvalidRunFolder(f"{manifest} has no object 'files' of format {FORMAT}")
    for name, entry in listed.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise InvalidRunFolder(f"{manifest} lists {name!r}, which is no file of the folder")
        if not isinstance(entry, dict) or not {"size", "sha256"} <= entry.keys():
            raise InvalidRunFolder(f"{manifest}: {name} has no size and sha256")
        file = run.path / name
        if not file.is_file():
            raise InvalidRunFolder(f"{file} is missing")
        if file.stat().st_size != entry["size"] or _sha256(file) != entry["sha256"]:
            raise InvalidRunFolder(f"{file} is damaged: its sha256 is not the manifest's")
    present = {file.name for file in run.path.iterdir() if not file.name.startswith(".")}
    unlisted = sorted(present - set(listed) - {MANIFEST})
    if unlisted:
        raise InvalidRunFolder(f"{run.path / unlisted[0]} is not in the manifest")
    run.weights("adapters.")
    return run


def write(
    folder: str | Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    tokenizer: str | None,
    dtype: torch.dtype = torch.float32,
) -> RunFolder:
    """Write a whole run folder; the manifest goes last, so a folder without it does not count.

    Args:
        folder: the place; an existing folder there is replaced by renaming, never written into.
        config: see architecture; `format` is set here. weights: name -> tensor, stored as
            `dtype`, one of STORED.
        tokenizer: the text of tokenizer.json, None for a vision-only run.

    Raises ValueError, before anything is written, for a tokenizer of another text tower.
    """
    folder = Path(folder)
    run_config.check_words(config, json.loads(tokenizer or "{}"))
    with atomic_folder(folder) as draft:
        _fill(draft, {"format": FORMAT, **config}, weights, tokenizer, dtype)
    _sync(folder.parent)
    return open_run(folder)


def _fill(
    draft: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    tokenizer: str | None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the files of a run folder into `draft`, see `write`. Raises OSError when the disk is
    full.
    """
    tensors = {k: v.detach().to(dtype).cpu().contiguous() for k, v in weights.items()}
    try:
        save_file(tensors, draft / WEIGHTS)
    except SafetensorError as error:  # no OSError, but it holds the number of one
        number = OS_ERROR.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), f"cannot write {draft / WEIGHTS}: {error}") from None
    texts = {CONFIG: json.dumps(config, indent=1, sort_keys=True), CARD: model_card(config)}
    if tokenizer is not None:
        texts[TOKENIZER] = tokenizer
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")
    files = {
        p.name: {"size": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(draft.iterdir())
    }
    (draft / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
    for file in draft.iterdir():
        _sync(file)
    _sync(draft)


def publish(
    work_dir: str | Path,
    step: int,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    tokenizer: str | None,
) -> RunFolder:
    """Write ``WORK_DIR/run-STEP`` whole, swap the symlink ``WORK_DIR/run`` to it, then delete the
    older ones.

    A reader finds either the old folder or the new one under ``run``, never a half-written one and
    never none. So a step that is published again does not replace its folder, which no file system
    does in one move: it goes to ``run-STEP.1``, or back to ``run-STEP`` if that one is there.
    """
    work_dir = Path(work_dir)
    for left in (*work_dir.glob(f".run-*{DRAFT}"), *work_dir.glob(f".run-*{REPLACED}")):
        shutil.rmtree(left)  # of a run that was killed
    name = f"run-{step}"
    if (work_dir / "run").resolve() == (work_dir / name).resolve():
        name += ".1"
    run = write(work_dir / name, config, weights, tokenizer)
    link = work_dir / ".run.link"
    link.unlink(missing_ok=True)
    link.symlink_to(run.path.name, target_is_directory=True)
    place, copied = work_dir / "run", work_dir / f".run-copied{REPLACED}"
    if place.is_dir() and not place.is_symlink():  # a work dir copied with its links followed
        os.replace(place, copied)
    os.replace(link, place)
    _sync(work_dir)
    shutil.rmtree(copied, ignore_errors=True)
    for old in work_dir.iterdir():  # what people keep beside it has other names
        if OURS.fullmatch(old.name) and old.is_dir() and old.name != run.path.name:
            shutil.rmtree(old)
    return run


def _object(path: Path, most: int = json_file.SMALL) -> dict[str, Any]:
    """A JSON object. Raises InvalidRunFolder, naming the file, for anything else in it."""
    try:
        return json_file.read_object(path, most)
    except ValueError as error:
        raise InvalidRunFolder(str(error)) from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
