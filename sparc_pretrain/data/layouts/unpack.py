"""Archives unpacked file by file: what is there is kept, what is interrupted continues, and nothing
is ever written outside of the root.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sparc_pretrain.atomic_file import atomic_write

BLOCK = 1 << 20
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error)
Member = tuple[str, int, Callable[[], BinaryIO]]  # name, bytes, how to read it


@dataclass(frozen=True)
class Archive:
    """A file to unpack: its name below the root (a pattern), the first folder of its members that
    is left out, the folder they go `into`, and whether only their last names count (`flat`).
    """

    pattern: str
    strip: str = ""
    into: str = ""
    flat: bool = False

    def place(self, name: str) -> PurePosixPath:
        """Where a member goes, relative to the root."""
        path = PurePosixPath(name)
        if self.flat:
            path = PurePosixPath(path.name)
        elif self.strip and path.parts[:1] == (self.strip,):
            path = PurePosixPath(*path.parts[1:])
        return PurePosixPath(self.into) / path


def unpack(path: Path, root: Path, archive: Archive, force: bool = False) -> tuple[int, int]:
    """Write the regular files of `path` that are not there -> (files written, files kept).

    Raises:
        ValueError: it is damaged, has a member that would lie outside of the root, or a file that
            is there with another size (replaced with `force`).
    """
    made = kept = 0
    try:
        with _members(path) as members:
            for name, size, opened in members:
                place = archive.place(name)
                target = root / place
                if place.is_absolute() or ".." in place.parts:
                    raise ValueError(f"{path} has a member {name!r} outside of {root}: not used")
                if target.is_file() and not force:
                    if target.stat().st_size != size:
                        raise ValueError(
                            f"{target} is not the one in {path.name}, which has {size:,} bytes: "
                            "remove it, or replace all with --force"
                        )
                    kept += 1
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened() as source:
                    atomic_write(target, lambda file, s=source: shutil.copyfileobj(s, file))
                made += 1
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged ({error}): download it again") from None
    return made, kept


@contextmanager
def _members(path: Path) -> Iterator[Iterator[Member]]:
    """The regular files of a zip or tar; links and devices are left out."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as file:
            yield (
                (i.filename, i.file_size, lambda i=i: file.open(i))
                for i in file.infolist()
                if not i.is_dir()
            )
    else:
        with tarfile.open(path) as file:
            yield ((i.name, i.size, lambda i=i: file.extractfile(i)) for i in file if i.isreg())
            # tarfile ends at a bad header without a word; the checksum comes at the stream's end
            while file.fileobj.read(BLOCK):
                pass
