"""One run per work dir: a second one is refused, and the lock of a dead one is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.engine import work_dir_lock
from sparc_pretrain.engine.work_dir_lock import WorkDirLock

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from sparc_pretrain.engine.work_dir_lock import WorkDirLock
WorkDirLock(sys.argv[1]).take()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path):
    """A living process that holds the lock of `tmp_path`."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout.readline() == "taken\n"
    yield child
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()


def test_a_second_process_is_refused_while_the_first_lives_and_takes_over_when_it_is_killed(
    tmp_path: Path, other: subprocess.Popen
) -> None:
    lock = WorkDirLock(tmp_path)
    with pytest.raises(ValueError, match=rf"in use by process {other.pid} on .*--work-dir"):
        lock.take()
    with pytest.raises(ValueError, match="in use"):  # the run itself, before its first step
        toy_run.train(tmp_path, steps=5)
    assert not list(tmp_path.glob("seen-*")) and not list(tmp_path.glob("*.pth"))
    other.kill()
    while Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)  # killed but not yet waited for: a zombie is dead as well
    lock.take()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_the_same_process_takes_it_again_and_gives_it_back_once(tmp_path: Path) -> None:
    first, second = WorkDirLock(tmp_path), WorkDirLock(tmp_path)
    first.take()
    second.take()
    first.release()
    assert not first.path.exists()
    second.release()


def test_a_process_id_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    lock = WorkDirLock(tmp_path)
    lock.take()
    owner = json.loads(lock.path.read_text())
    parent = os.getppid()
    lock.path.write_text(json.dumps({**owner, "pid": parent, "started": 1}))
    lock.take()  # somebody has this id, but began at another time
    started = work_dir_lock._started(parent)
    lock.path.write_text(json.dumps({**owner, "pid": parent, "started": started}))
    with pytest.raises(ValueError, match=f"process {parent}"):
        lock.take()


def test_a_lock_of_another_host_is_believed_for_ten_minutes_after_its_last_beat(
    tmp_path: Path,
) -> None:
    lock = WorkDirLock(tmp_path)
    lock.take()
    owner = {**json.loads(lock.path.read_text()), "host": "elsewhere"}
    lock.path.write_text(json.dumps(owner))
    with pytest.raises(ValueError, match="elsewhere"):
        lock.take()
    long_ago = time.time() - work_dir_lock.STALE - 5
    os.utime(lock.path, (long_ago, long_ago))
    lock.take()
    os.utime(lock.path, (long_ago, long_ago))
    lock.beaten -= work_dir_lock.BEAT
    lock.beat()
    assert time.time() - lock.path.stat().st_mtime < 60


def test_another_runs_lock_is_not_removed(tmp_path: Path) -> None:
    lock = WorkDirLock(tmp_path)
    lock.path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1}))
    lock.release()
    assert lock.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_file_that_names_nobody_is_nobodys(tmp_path: Path, text: str) -> None:
    lock = WorkDirLock(tmp_path)
    lock.path.write_text(text)
    lock.take()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_a_finished_run_leaves_no_lock_behind(tmp_path: Path) -> None:
    toy_run.train(tmp_path, steps=5)
    assert not (tmp_path / work_dir_lock.NAME).exists()


def test_a_run_that_fails_leaves_no_lock_behind_for_another_host_to_wait_for(
    tmp_path: Path,
) -> None:
    code = "import sys, toy_run; toy_run.train(sys.argv[1], steps=5, fail=(0, 3))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "the disk of rank 0 is gone" in done.stderr
    assert (tmp_path / "seen-0.jsonl").exists() and not (tmp_path / work_dir_lock.NAME).exists()
