"""The photographs that a command line names: files, folders (of photographs, of a video's frames)
and patterns.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Photo:
    """A file, and what is made of it is called: a path without ending, unlike all others'."""

    path: Path
    name: str


def photos(words: Sequence[str]) -> list[Photo]:
    """Files as they are given; of a folder everything below it that ends like a photograph, frames
    in the order of their numbers (2 before 10); of a pattern (``'in/*.jpg'``, ``**`` for any
    depth) what it matches.

    Raises:
        FileNotFoundError: a name without a file; a folder or pattern without photographs.
    """
    found: list[tuple[Path, str]] = []
    for word in words:
        path = Path(word)
        if path.is_file():
            found.append((path, path.stem))
        elif path.is_dir():
            inside = [p for p in path.rglob("*") if _photograph(p) and not _hidden(p, path)]
            if not inside:
                raise FileNotFoundError(f"{word} holds no photographs ({', '.join(SUFFIXES)})")
            named = [(p, str(p.relative_to(path).with_suffix(""))) for p in inside]
            found += sorted(named, key=lambda pair: natural(pair[1]))
        elif glob.has_magic(word):
            matched = [Path(p) for p in glob.glob(word, recursive=True) if _photograph(Path(p))]
            if not matched:
                raise FileNotFoundError(f"no photograph matches {word}")
            found += sorted(((p, p.stem) for p in matched), key=lambda pair: natural(str(pair[0])))
        else:
            raise FileNotFoundError(f"no file {word}")
    used: Counter[str] = Counter()
    named = []
    for path, name in found:
        used[name] += 1  # a/x.jpg and b/x.jpg
        named.append(Photo(path, name if used[name] == 1 else f"{name}-{used[name]}"))
    return named


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key by which frame 2 comes before frame 10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def _photograph(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)
