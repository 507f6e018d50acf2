"""What a check of a data set finds, part by part."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SHOWN = 3  # names of missing files in a message


@dataclass(frozen=True)
class Finding:
    """One line of the report; `problem` is empty when the part is complete, else it says what is
    wrong and how to mend it.
    """

    part: str
    detail: str = ""
    problem: str = ""


def photographs(folder: Path, names: list[str], part: str, url: str) -> Finding:
    """Whether every one of `names` is a file below `folder` that is not empty."""
    there: dict[str, int] = {}
    for below in {str(Path(name).parent) for name in names}:
        place = folder / below
        if place.is_dir():
            prefix = "" if below == "." else f"{below}/"
            there.update((prefix + e.name, e.stat().st_size) for e in os.scandir(place))
    gone = [name for name in names if name not in there]
    if gone:
        more = f"{len(gone)} of {len(names)} files are missing, first {', '.join(gone[:SHOWN])}"
        return Finding(part, problem=f"{more}: download {url}")
    empty = [name for name in names if there[name] == 0]
    if empty:
        more = f"{len(empty)} files are empty, first {', '.join(empty[:SHOWN])}"
        return Finding(part, problem=f"{more}: unpack them again with --force")
    return Finding(part, f"{len(names)} files")
