"""Two processes: whatever happens to one of them, the other neither hangs nor goes its own way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.engine import checkpoint

ROOT = Path(__file__).parents[2]
KILL, STOP, TERM = int(signal.SIGKILL), int(signal.SIGSTOP), int(signal.SIGTERM)
# What torchrun starts: the toy run, whose rank 1 is killed at step 7 of its first life if asked.
SCRIPT = """
import json, os, sys
sys.path[:0] = [{here!r}, {root!r}]
import toy_run
from sparc_pretrain.command import cli, launcher
options = json.loads(sys.argv[1])
if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
    options.pop("signals", None)
launcher.init_distributed("pytorch")
cli.guard(lambda: toy_run.train(resume="auto", launcher="pytorch", **options) and None)
"""


def torchrun(folder: Path, *flags: str, **options) -> subprocess.Popen:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent), root=str(ROOT)))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options["work_dir"] = str(folder / "work")
    return subprocess.Popen(
        [sys.executable, *words, *flags, str(script), json.dumps(options)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "SPARC_DIST_TIMEOUT": "60"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(script: Path) -> list[str]:
    """Processes whose command line names `script`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # gone while we looked
        if os.fsencode(script) in command and state not in "ZX":
            found.append(process.name)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 steps of two ranks without interruption."""
    work = tmp_path_factory.mktemp("whole")
    assert toy_run.spawn(2, work_dir=work, steps=8) == [0, 0]
    return work


def test_torchrun_restarts_after_a_kill_of_rank_1_and_the_weights_are_those_of_a_whole_run(
    tmp_path: Path, whole: Path
) -> None:
    agent = torchrun(tmp_path, "--max-restarts", "1", steps=8, signals={"rank 1 step 7": [KILL]})
    said = agent.communicate(timeout=240)[1]
    assert agent.returncode == 0, said
    assert (tmp_path / "work" / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()
    lines = (tmp_path / "work" / "seen-0.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines].count(
        6
    ) == 2  # the second life began at the checkpoint of step 5


def test_a_term_to_the_torchrun_agent_saves_one_step_on_both_ranks_and_leaves_nobody(
    tmp_path: Path,
) -> None:
    agent = torchrun(tmp_path, steps=100_000, checkpoint=dict(interval=10**6))
    work = tmp_path / "work"
    until = time.monotonic() + 180
    while not (work / "seen-1.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.2)
    agent.terminate()
    agent.communicate(timeout=60)
    assert agent.returncode != 0
    last = [max(toy_run.seen(work, number)) for number in (0, 1)]
    assert last[0] == last[1]
    assert checkpoint.find_valid(work).name == f"iter_{last[0]}.pth"
    assert alive(tmp_path / "script.py") == []


def test_a_rank_that_raises_ends_the_other_one_at_once_and_its_message_is_kept(
    tmp_path: Path,
) -> None:
    started = time.monotonic()
    assert toy_run.spawn(2, work_dir=tmp_path, steps=8, fail=(1, 3)) == [2, 2]
    assert time.monotonic() - started < toy_run.SECONDS
    assert "the disk of rank 1 is gone" in (tmp_path / "error-1.txt").read_text()
    assert "another process of this run is gone" in (tmp_path / "error-0.txt").read_text()
    assert max(toy_run.seen(tmp_path, 0)) == 2


def test_a_rank_that_stands_still_ends_the_others_after_the_timeout_and_is_named(
    tmp_path: Path,
) -> None:
    codes = toy_run.spawn(
        3, work_dir=tmp_path, timeout=5, grace=8, steps=8, signals={"rank 1 step 3": [STOP]}
    )
    assert codes == [2, toy_run.KILLED, 2]
    for number in (0, 2):
        error = (tmp_path / f"error-{number}.txt").read_text()
        assert "rank 1 of this run is gone or stuck" in error


def test_a_loss_that_is_nan_on_one_rank_changes_no_weight_on_any(tmp_path: Path) -> None:
    guarded = dict(type="sparc.GuardedOptimWrapper", max_norm=1.0)
    assert toy_run.spawn(2, work_dir=tmp_path, steps=6, wrapper=guarded, nan=(1, 3)) == [0, 0]
    for number in (0, 1):
        weights = [toy_run.seen(tmp_path, number)[step]["weights"] for step in (1, 2, 3, 4)]
        assert weights[1] == weights[2] and len(set(weights)) == 3
    assert toy_run.seen(tmp_path, 1)[3]["loss"] == "nan"
    assert toy_run.seen(tmp_path, 0)[3]["loss"] != "nan"
