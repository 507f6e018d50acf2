"""Which tars are meant: names, folders and patterns, on disk or at addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import filter as matching
from glob import glob
from itertools import chain
from pathlib import Path

from braceexpand import braceexpand

from sparc_pretrain.data import remote
from sparc_pretrain.data.address import Address, is_remote

Shards = str | Path | Iterable[str | Path]


class Paths(Sequence[Path | Address]):
    """Where tars lie, held as `text`, a Path or Address only where it is asked for: of 100,000 tars
    they take most of the time of a start, and of its memory, in every process.
    """

    def __init__(self, text: Iterable[str]) -> None:
        self.text = list(text)

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, n: int) -> Path | Address:
        text = self.text[n]
        return Address(text) if is_remote(text) else Path(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self.text == [str(path) for path in other]


def expand(shards: Shards) -> Paths:
    """What is meant by a tar, a folder of tars, a pattern (`*`, `?`, `{000..009}`) or a list of
    these, on disk or at an address (see `remote.expand`).

    Raises ValueError for `pipe:` and other addresses, or one that cannot be used, ImportError where
    they cannot be read for want of a library, and FileNotFoundError when a folder or a `*` pattern
    holds no tar. A missing tar named one by one is not an error here.
    """
    if not isinstance(shards, (str, Path)):
        return Paths(chain.from_iterable(expand(one).text for one in shards))
    found: list[str] = []
    for name in braceexpand(str(shards)):
        if is_remote(name):
            found += [place.text for place in remote.expand(name)]
            continue
        if scheme := re.match(r"^[A-Za-z][A-Za-z0-9+.-]+:", name):
            raise ValueError(
                f"{scheme[0]} shards are local files, or at s3://, gs:// or https://: copy them"
                " to one of these first"
            )
        path = Path(name).expanduser()
        if path.is_dir():
            inside = str(path / "x").removesuffix("x")
            matches = [inside + tar for tar in sorted(matching(os.listdir(path), "*.tar"))]
        elif any(mark in name for mark in "*?["):  # in the order of paths
            matches = sorted(glob(str(path)), key=lambda tar: tar.split(os.sep))
        else:
            found.append(str(path))
            continue
        if not matches:
            raise FileNotFoundError(f"{name}: no .tar file here; make shards with tools/data.py")
        found += matches
    return Paths(found)
