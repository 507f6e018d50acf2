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
from sparc_pretrain.engine.work_dir_lock import WorkDirLock, held

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
    lock.release()


def test_a_living_process_renews_its_lock_whatever_it_is_doing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_dir_lock, "BEAT", 0.01)
    lock = WorkDirLock(tmp_path)
    lock.take()
    os.utime(lock.path, (1, 1))
    until = time.monotonic() + 10
    while lock.path.stat().st_mtime == 1 and time.monotonic() < until:
        time.sleep(0.01)
    assert time.time() - lock.path.stat().st_mtime < 60
    lock.release()


def of_another_host(folder: Path, **more) -> Path:
    """A lock in `folder` whose process cannot be asked."""
    path = folder / work_dir_lock.NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 1, **more}))
    return path


def test_a_run_that_resumes_waits_for_a_silent_host_until_its_lock_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    monkeypatch.setattr(work_dir_lock, "print_log", lambda line, *rest: said.append(line))
    monkeypatch.setattr(work_dir_lock, "LOOK", 0.01)
    monkeypatch.setattr(work_dir_lock, "STALE", 0.3)
    path = of_another_host(tmp_path)
    ahead = time.time() + 3600  # that host's clock is fast: what was seen of it counts
    os.utime(path, (ahead, ahead))
    with pytest.raises(ValueError, match="in use"), held(tmp_path, wait=False):
        pass
    started = time.monotonic()
    with held(tmp_path, wait=True):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert 0.3 <= time.monotonic() - started < 5 and not path.exists()
    assert len(said) == 1 and "it waits for up to 0 s without a sign of life" in said[0]


def test_a_run_on_another_host_that_is_seen_alive_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_another_host(tmp_path)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.utime(path, (5e9, 5e9)))  # it beats
    with pytest.raises(ValueError, match="in use"), held(tmp_path, wait=True):
        pass


K8S = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("first", "then", "over"),
    [
        (dict(SLURM_JOB_ID="7"), dict(SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1"), True),
        (dict(SLURM_JOB_ID="7"), dict(SLURM_JOB_ID="7"), False),  # two steps of one allocation
        (dict(SLURM_JOB_ID="7"), dict(SLURM_JOB_ID="8", SLURM_RESTART_COUNT="1"), False),
        (
            dict(TORCHELASTIC_RUN_ID="r", TORCHELASTIC_RESTART_COUNT="0"),
            dict(TORCHELASTIC_RUN_ID="r", TORCHELASTIC_RESTART_COUNT="2"),
            True,
        ),
        (
            dict(TORCHELASTIC_RUN_ID="none"),
            dict(TORCHELASTIC_RUN_ID="none", TORCHELASTIC_RESTART_COUNT="1"),
            False,
        ),
        (dict(SPARC_JOB_ID="mine"), dict(SPARC_JOB_ID="mine"), True),
        (dict(PBS_JOBID="9.x"), dict(PBS_JOBID="9.x"), True),
        ({}, {}, False),
    ],
)
def test_the_lock_of_an_earlier_life_of_a_job_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: dict, then: dict, over: bool
) -> None:
    of_another_host(tmp_path, jobs=work_dir_lock.jobs(first))
    for name, value in then.items():
        monkeypatch.setenv(name, value)
    lock = WorkDirLock(tmp_path)
    if over:
        assert lock.take()
        lock.release()
    else:
        with pytest.raises(ValueError, match="elsewhere"):
            lock.take()


def test_a_pod_that_kubernetes_started_again_is_the_same_job() -> None:
    one, two = (work_dir_lock.jobs(K8S, host) for host in ("train-0-ab1cd", "train-0-x9y8z"))
    assert one == two == {"Kubernetes": ["train-0", None]}
    assert work_dir_lock.jobs({}, "train-0-ab1cd") == {}


def test_a_block_within_a_block_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / work_dir_lock.NAME
    with held(tmp_path, wait=False):
        with held(tmp_path, wait=False):
            pass
        assert path.exists()
    assert not path.exists()


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
