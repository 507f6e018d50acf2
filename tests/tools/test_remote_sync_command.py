"""The pre-training command with a bucket: resumed on another machine, killed while it sends."""

# ruff: noqa: F811 (fixtures)
from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from sparc_pretrain import run_folder
from sparc_pretrain.data import bucket
from sparc_pretrain.engine import checkpoint, remote_resume
from tests.bucket_server import buckets
from tests.commands import call, refusal
from tests.remote_client import alone, at_s3
from tests.small_pretraining import (  # noqa: F401 (fixtures)
    KILLED,
    assert_same_run,
    config_text_as_it_is,
    life,
    one_thread,
    place,
    pretrain,
    whole,
)

AT = "s3://runs/sparc"
EVERY_STEP = "default_hooks.checkpoint.interval=1"


@pytest.fixture
def server(tmp_path, monkeypatch):
    (tmp_path / "buckets" / "runs").mkdir(parents=True)
    with buckets(tmp_path / "buckets") as server:
        alone(monkeypatch, tmp_path / "cache")
        at_s3(server, monkeypatch)
        yield server


def test_a_stopped_run_goes_on_on_another_machine_from_its_bucket_to_the_same_end(
    place: Path, whole: Path, tmp_path: Path, server, monkeypatch
) -> None:
    with monkeypatch.context() as patch:  # sending takes longer than training
        write = bucket.write
        patch.setattr(bucket, "write", lambda *what: (time.sleep(0.2), write(*what)))
        patch.setenv("STOP_AT", "3")
        assert pretrain(place, tmp_path / "one", "--remote-sync", AT)[0] == 75
    line = refusal(pretrain(place, tmp_path / "two", "--remote-sync", AT))
    assert AT in line and "iter_3.pth" in line and "--resume" in line
    words = ("--remote-sync", AT, "--resume", "auto")
    code, said = pretrain(place, tmp_path / "two", *words)
    assert code == 0, said
    assert_same_run(tmp_path / "two", whole)
    sha256 = run_folder.verify(tmp_path / "two").sha256
    assert run_folder.open_run(AT).sha256 == sha256
    logs = list((server.folder / "runs" / "sparc").glob("*/vis_data/scalars.json"))
    assert any('"step": 6' in log.read_text() for log in logs)
    outcome = call("verify", AT)
    assert outcome[0] == 0, outcome
    monkeypatch.chdir(tmp_path)
    captions = place / "scenes" / "annotations" / "captions_val.json"
    images = place / "scenes" / "images" / "val"
    words = ("zeroshot", AT, "retrieval", "--images", images, "--captions", captions)
    outcome = call(*words)
    assert outcome[0] == 0, outcome
    record = json.loads((tmp_path / "work_dirs/sparc/zeroshot/metrics.json").read_text())
    assert record["backbone"]["sha256"] == sha256
    starting = (f"model.init_from={AT}", "schedule.steps=1", "schedule.warmup=0")
    outcome = pretrain(place, tmp_path / "three", options=starting)
    assert outcome[0] == 0, outcome


def test_a_stopped_run_says_what_its_bucket_lacks(
    place: Path, tmp_path: Path, server, monkeypatch
) -> None:
    server.most_changes = 2
    monkeypatch.setenv("STOP_AT", "3")
    assert pretrain(place, tmp_path / "work", "--remote-sync", AT)[0] == 75
    log = next((tmp_path / "work").glob("*/*.log")).read_text()
    assert f"is in {tmp_path / 'work'} alone, not in {AT}" in log
    checkpoint.verify(tmp_path / "work" / "iter_3.pth")


def test_a_bucket_that_goes_away_costs_a_line_at_the_end_and_no_training(
    place: Path, whole: Path, tmp_path: Path, server
) -> None:
    server.most_changes = 2
    line = refusal(pretrain(place, tmp_path / "work", "--remote-sync", AT))
    assert "training is done and whole" in line and "access is denied" in line
    assert_same_run(tmp_path / "work", whole)
    server.most_changes = None
    words = ("--remote-sync", AT, "--resume", "auto")
    assert pretrain(place, tmp_path / "work", *words)[0] == 0
    assert checkpoint.sha256(fetched(tmp_path / "other")) == checkpoint.sha256(
        tmp_path / "work" / "iter_6.pth"
    )


def fetched(folder: Path) -> Path:
    folder.mkdir()
    return Path(remote_resume.prepare(folder, None, AT))


def test_runs_killed_while_they_send_go_on_elsewhere_from_what_is_whole(
    place: Path, whole: Path, tmp_path: Path, server
) -> None:
    # the fork server may be older than this test's environment
    own = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    own["NO_PROXY"] = "127.0.0.1"
    for number, changes in enumerate((22, 30)):
        server.written, server.most_changes = [], changes
        codes, said = life(
            place,
            tmp_path / f"machine{number}",
            EVERY_STEP,
            f"remote_sync={AT}",
            meanwhile=lambda child: setattr(server, "victim", child.pid),
            **own,
        )
        assert codes == [KILLED], said
        server.most_changes = None
        checkpoint.verify(fetched(tmp_path / f"reader{number}"))
        run_folder.verify(run_folder.open_run(AT).path)
    codes, said = life(place, tmp_path / "last", EVERY_STEP, f"remote_sync={AT}", **own)
    assert codes == [0], said
    assert_same_run(tmp_path / "last", whole)
