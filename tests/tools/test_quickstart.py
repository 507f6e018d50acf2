"""What the quickstart says of how far it is."""

from __future__ import annotations

import os
from pathlib import Path

from tests.commands import tool


def test_progress_is_written_once_a_minute_with_the_newest_of_each_command(tmp_path: Path) -> None:
    quickstart, file = tool("quickstart"), tmp_path / "progress.log"
    first, second = tmp_path / "det_sparc.log", tmp_path / "data.log"
    first.write_text(
        "Iter(train) [ 20/480]  lr: 1e-3  eta: 0:02:10  loss: 3\n"
        "Iter(train) [ 40/480]  lr: 1e-3  eta: 0:02:01  loss: 2\n"
    )
    second.write_text("")
    quickstart.note([first, second], file)
    [line] = file.read_text().splitlines()
    assert line.endswith("det_sparc: train [ 40/480] eta: 0:02:01   data: ...")
    quickstart.note([first, second], file)
    assert len(file.read_text().splitlines()) == 1
    old = file.stat().st_mtime - 61
    os.utime(file, (old, old))
    quickstart.note([first], file)
    assert len(file.read_text().splitlines()) == 2
