"""tools/pretrain.py as a command: stopped and resumed it equals the run that was never stopped."""

# ruff: noqa: F811 (fixtures)
from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint
from sparc_pretrain.engine.preempt import PREEMPTED
from tests.commands import ROOT, call, command, refusal, tool
from tests.small_pretraining import (  # noqa: F401 (fixtures)
    STEPS,
    STOP,
    assert_same_run,
    config_text_as_it_is,
    logged,
    one_thread,
    place,
    pretrain,
    whole,
)


def test_the_whole_run_trained_something(whole: Path) -> None:
    losses = [line["loss"] for line in logged(whole)]
    assert len(losses) == STEPS and losses[-1] < losses[0]
    assert run_folder.verify(whole).config["samples_seen"] == 16 * STEPS


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_stopped_by_sigterm_and_resumed_equals_the_whole_run(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    work = tmp_path / "work"
    monkeypatch.setenv("STOP_AT", str(STOP))
    code, _ = pretrain(place, work, workers=workers)
    assert code == PREEMPTED == 75
    assert checkpoint.find_valid(work).name == f"iter_{STOP}.pth"
    assert run_folder.verify(work).config["samples_seen"] == 16 * STOP
    monkeypatch.delenv("STOP_AT")
    code, said = pretrain(place, work, "--resume", "auto", workers=workers)
    assert code == 0, said
    assert_same_run(work, whole)


def test_the_command_in_a_process_of_its_own_is_stopped_and_resumed_alike(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    words = [place / "leaf.py", "--work-dir", tmp_path, "--cfg-options", "data.workers=2"]
    environment = {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])}
    done = command("pretrain", *words, STOP_AT=str(STOP), **environment)
    assert done.returncode == 75, done.stderr
    assert f"saved at iteration {STOP}; to go on: --resume auto" in done.stdout
    code, said = pretrain(place, tmp_path, "--resume", workers=0)
    assert code == 0, said
    assert_same_run(tmp_path, whole)


def test_a_trained_work_dir_is_not_trained_into_anew_unless_it_is_forced(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    work = tmp_path / "trained"
    shutil.copytree(whole, work, symlinks=True)
    code, said = pretrain(place, work)
    assert code == 2 and f"iter_{STEPS}.pth" in said and "--resume" in said and "--force" in said
    assert checkpoint.find_valid(work).name == f"iter_{STEPS}.pth"
    code, said = pretrain(place, work, "--force")
    assert code == 0, said
    assert_same_run(work, whole)


def test_all_checkpoints_of_a_work_dir_are_verified(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    work = tmp_path / "copy"
    shutil.copytree(whole, work, symlinks=True)
    assert call("verify", work)[0] == 0
    assert f"iter_{STEPS}.pth: intact" in capsys.readouterr().out
    path = work / f"iter_{STEPS}.pth"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"iter_{STEPS}.pth is damaged" in refusal(call("verify", work))
    path.write_bytes((whole / path.name).read_bytes())
    shutil.rmtree(work / f"run-{STEPS}")
    assert "is not a run folder" in refusal(call("verify", work))  # `run` leads nowhere
    (work / "run").unlink()  # as a work dir of tools/train.py, which has none
    assert call("verify", work)[0] == 0


def test_weights_that_the_config_names_are_started_from(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    words = ["--work-dir", str(tmp_path), "--cfg-options", f"load_from={whole}/iter_{STEPS}.pth"]
    cfg = tool("pretrain").load(tool("pretrain").parse([str(place / "leaf.py"), *words]))
    assert cfg.load_from == f"{whole}/iter_{STEPS}.pth" and not cfg.get("resume")


def test_resuming_an_empty_work_dir_starts_from_the_beginning(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    code, said = pretrain(place, tmp_path / "new", "--resume", "auto")
    assert code == 0, said
    assert_same_run(tmp_path / "new", whole)


def test_four_micro_batches_start_with_the_loss_of_one_batch(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    code, said = pretrain(place, tmp_path / "parts", "--accumulate", "4")
    assert code == 0, said
    parts, one = logged(tmp_path / "parts"), logged(whole)
    assert len(parts) == STEPS
    for key in ("loss", "global_loss", "local_loss", "grad_norm"):
        assert parts[0][key] == pytest.approx(one[0][key], rel=1e-4), key
    assert parts[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=0.05)


def test_an_exploding_run_stops_with_the_remedy_and_says_where_to_look(
    place: Path, tmp_path: Path
) -> None:
    options = [
        "optim_wrapper.optimizer.lr=inf",
        "schedule.steps=20",
        f"experiment_name=inf{os.getpid()}",
    ]
    line = refusal(
        call("pretrain", place / "leaf.py", "--work-dir", tmp_path, "--cfg-options", *options)
    )
    assert "10 steps in a row" in line and "Lower the learning rate" in line
    record = json.loads((tmp_path / "nonfinite_rank0.json").read_text())
    assert record["step"] < 20 and len(record["keys"]) == 16


def test_a_damaged_checkpoint_is_passed_over_by_auto_and_refused_by_name(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "iter_4.pth").write_bytes(b"half a file")
    line = refusal(pretrain(place, tmp_path, "--resume", tmp_path / "iter_4.pth"))
    assert "iter_4.pth" in line
    code, said = pretrain(place, tmp_path, "--resume", "auto")
    assert code == 0, said
    assert_same_run(tmp_path, whole)


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing can be compiled."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_compiler_a_run_is_the_same_and_the_ops_of_mm_are_there(
    place: Path, whole: Path, tmp_path: Path, no_compiler: None
) -> None:
    paths = {"PYTHONPATH": os.pathsep.join([str(place), str(ROOT)])}
    done = command("pretrain", place / "leaf.py", "--work-dir", tmp_path / "work", **paths)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "work", whole)
    code = "import transfer, torch; from mmcv.ops import nms; print(len(nms({}, {}, 0.5)[1]))"
    boxes, scores = "torch.tensor([[0, 0, 4, 4.], [0, 0, 4, 3.9]])", "torch.tensor([0.9, 0.8])"
    child = subprocess.run(
        [sys.executable, "-c", code.format(boxes, scores)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout.strip() == "1", child.stderr


def test_compiling_without_a_compiler_is_refused(
    place: Path, tmp_path: Path, no_compiler: None
) -> None:
    line = refusal(pretrain(place, tmp_path / "work", "--compile"))
    assert "needs a C++ compiler" in line and not (tmp_path / "work").exists()


def test_compiled_towers_train_like_plain_ones(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, traced = torch.compile, []

    def without_code_generation(function: Any, **options: Any) -> Any:
        traced.append(options)
        return original(function, **{**options, "backend": "eager"})  # inductor takes a minute

    monkeypatch.setattr(torch, "compile", without_code_generation)
    code, said = pretrain(place, tmp_path / "compiled", "--compile")
    assert code == 0, said
    assert len(traced) == 2
    found, wanted = logged(tmp_path / "compiled"), logged(whole)
    for one, other in zip(found, wanted, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    names = checkpoint.load(tmp_path / "compiled" / f"iter_{STEPS}.pth")["state_dict"]
    assert names.keys() == checkpoint.load(whole / f"iter_{STEPS}.pth")["state_dict"].keys()


LAUNCHED = {
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
OF_NODE = {"SLURM_NODELIST": "127.0.0.1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_two_processes_that_a_scheduler_started_train_like_one(
    place: Path, whole: Path, tmp_path: Path, launcher: str
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])

    def process(number: int) -> subprocess.CompletedProcess[str]:
        said = dict(zip(LAUNCHED[launcher], (str(number), "2", str(number)), strict=True))
        paths = os.pathsep.join([str(place), str(ROOT)])
        words = [place / "leaf.py", "--work-dir", tmp_path, "--launcher", launcher]
        return command("pretrain", *words, PYTHONPATH=paths, MASTER_PORT=port, **OF_NODE, **said)

    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(process, (0, 1)):
            assert done.returncode == 0, done.stderr
    two, one = logged(tmp_path), logged(whole)
    assert len(two) == STEPS
    for key in ("loss", "global_loss", "local_loss"):
        assert two[0][key] == pytest.approx(one[0][key], rel=1e-4), key
    assert two[-1]["loss"] == pytest.approx(one[-1]["loss"], rel=0.05)
    assert run_folder.verify(tmp_path).config["samples_seen"] == 16 * STEPS
