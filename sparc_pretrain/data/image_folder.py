"""Which files of a folder are its images."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")


def is_hidden(path: Path, root: Path) -> bool:
    """Whether a file or a folder above it, below `root`, is one that programs leave behind:
    ``.ipynb_checkpoints``, ``._x.jpg``, ``__MACOSX``.
    """
    return any(part[0] == "." or part == "__MACOSX" for part in path.relative_to(root).parts)


def image_files(root: Path, below: bool = True) -> tuple[list[Path], int]:
    """(the images of a folder, sorted, how many hidden ones were left out), told by their suffix.

    `below`: those of the folders in it too.
    """
    every = root.rglob("*") if below else root.iterdir()
    found = sorted(file for file in every if file.suffix.lower() in SUFFIXES and file.is_file())
    seen = [file for file in found if not is_hidden(file, root)]
    return seen, len(found) - len(seen)
