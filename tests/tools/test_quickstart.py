"""What the quickstart says of how far it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

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


def test_several_processes_pre_train_by_torchrun_with_their_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickstart = tool("quickstart")
    alone = quickstart.pretraining(1, "config.py", "--resume", "auto")
    assert alone == quickstart.tool("pretrain", "config.py", "--resume", "auto")
    words = quickstart.pretraining(2, "config.py", "--resume", "auto")
    assert words[1:4] == ["-m", "torch.distributed.run", "--standalone"]
    assert "--nproc-per-node=2" in words and words[-2:] == ["--resume", "auto"]
    assert words[words.index("--launcher") + 1] == "pytorch"
    for cores, processes in ((1, 1), (2, 2), (8, 2)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert quickstart.processes() == (1 if torch.cuda.is_available() else processes)
    (tmp_path / "logs").mkdir()
    saying = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    quickstart.step("threads", {tmp_path / "said": saying}, tmp_path, processes=2)
    assert (tmp_path / "logs" / "said.log").read_text().strip() == "4"


def test_what_is_done_is_done_by_the_same_command_in_however_many_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    quickstart, place = tool("quickstart"), tmp_path / "run"
    (tmp_path / "logs").mkdir()

    def step(*words: str) -> str:
        quickstart.step("a step", {place: [sys.executable, "-c", "print(1)", *words]}, tmp_path)
        return capsys.readouterr().out

    assert "a step: done before" not in step("--seed", "0")
    assert "a step: done before" in step("--seed", "0", "--launcher", "pytorch")
    with pytest.raises(ValueError, match=r"run was done by another command .*--seed 0.*remove"):
        step("--seed", "1")


def test_a_failed_command_is_told_by_its_own_error_not_by_torchruns_report(tmp_path: Path) -> None:
    quickstart, log = tool("quickstart"), tmp_path / "sparc.log"
    log.write_text("step 1\nerror: no room\nerror: no room\nChildFailedError:\n" + "=\n" * 40)
    assert quickstart.last_words(log) == ["error: no room"]
    log.write_text("\n".join(map(str, range(20))))
    assert quickstart.last_words(log) == [str(n) for n in range(5, 20)]
