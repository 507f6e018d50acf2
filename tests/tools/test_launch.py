"""The files that start a training on several nodes, with two processes on this machine."""

# ruff: noqa: F811 (fixtures)
from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint
from tests.commands import ROOT
from tests.small_pretraining import STEPS, place  # noqa: F401 (a fixture)

# Stands for Slurm's: two tasks on one node; the exit code is the largest of theirs.
SRUN = """#!/bin/bash
[[ $1 == --kill-on-bad-exit=1 ]] || exit 1
shift
export SLURM_NTASKS=2 SLURM_NODELIST=localhost
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & pids+=($!); done
code=0
for pid in ${pids[@]}; do wait $pid; one=$?; (( one > code )) && code=$one; done
exit $code
"""


def launched(folder: Path, place: Path, script: str, **environment: str) -> tuple[int, str]:
    shims = folder / "bin"
    shims.mkdir(exist_ok=True)
    asked, python = f'echo "$@" >> {shims}/asked', f'exec {sys.executable} "$@"'
    for name, text in {"srun": SRUN, "scontrol": asked, "python": python}.items():
        (shims / name).write_text(text if text.startswith("#!") else f"#!/bin/bash\n{text}\n")
        (shims / name).chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    paths = os.pathsep.join([str(ROOT), str(place)])
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "MASTER"))}
    inherited |= dict(PATH=f"{shims}:{os.environ['PATH']}", PYTHONPATH=paths, SPARC="tools")
    inherited |= dict(MASTER_PORT=port, PORT=port, SLURM_JOB_ID="77", GPUS="2", RESTARTS="0")
    words = [str(place / "leaf.py"), "--work-dir", str(folder / "work"), "--amp"]
    done = subprocess.run(
        [str(ROOT / "tools" / "launch" / script), *words],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["slurm.sh", "torchrun.sh"])
def test_two_processes_train_to_the_end(tmp_path: Path, place: Path, script: str) -> None:
    code, said = launched(tmp_path, place, script)
    assert code == 0, said[-3000:]
    assert checkpoint.find_valid(tmp_path / "work").name == f"iter_{STEPS}.pth"
    assert run_folder.verify(tmp_path / "work").config["samples_seen"] == 16 * STEPS
    assert not (tmp_path / "bin" / "asked").exists()


def test_a_job_that_slurm_stops_puts_itself_into_the_queue_again(
    tmp_path: Path, place: Path
) -> None:
    code, said = launched(tmp_path, place, "slurm.sh", STOP_AT="2")
    assert code == 75, said[-3000:]
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 77\n"
    assert checkpoint.find_valid(tmp_path / "work") is not None
