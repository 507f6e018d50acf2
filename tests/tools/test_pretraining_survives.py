"""The pre-training command itself: killed, out of disk, resumed by others, refused changes."""

# ruff: noqa: F811 (fixtures)
from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint, work_dir_lock
from tests.commands import refusal
from tests.small_pretraining import (  # noqa: F401 (fixtures)
    KILLED,
    STEPS,
    assert_same_run,
    config_text_as_it_is,
    flat,
    life,
    logged,
    one_thread,
    place,
    pretrain,
    whole,
)

EVERY_STEP = "default_hooks.checkpoint.interval=1"
AT_ONCE = "default_hooks.checkpoint.background=False"
# (step, change to the disk in that step and after it): the draft of the run folder, its link, the
# old folder, the checkpoint, its manifest, the pointer, the old checkpoint
KILLS = [(2, 4), (2, 14), (3, 20), (4, 26), (5, 31)]


@pytest.mark.parametrize("background", [False, True])
def test_a_run_killed_again_and_again_equals_the_whole_run(
    place: Path, whole: Path, tmp_path: Path, background: bool
) -> None:
    work = tmp_path / "work"
    steps = [0]
    every = (EVERY_STEP, f"default_hooks.checkpoint.background={background}")
    for step, change in KILLS[::2] if background else KILLS:
        codes, said = life(place, work, *every, KILL_AT=f"{step}:{change}")
        assert codes == [KILLED], said
        found = checkpoint.find_valid(work)
        steps.append(checkpoint.progress(found)[0] if found else 0)
        # nothing but the step that it died in is lost, and the save of the one before in a thread
        assert steps[-1] >= step - 1 - background
        if found or not background:
            assert run_folder.verify(work / "run").config["samples_seen"] >= 16 * steps[-1]
    codes, said = life(place, work, *every)
    assert codes == [0], said
    assert_same_run(work, whole)
    assert len(list(work.glob("run-*"))) == 1 and len(list(work.glob("*.pth"))) <= 3
    assert not [
        path.name for path in work.iterdir() if re.search(r"partial|^\.(run|lock)", path.name)
    ]


@pytest.mark.parametrize("other", [None, "schedule.steps=4", "randomness.seed=1"])
def test_a_run_resumed_at_its_end_writes_the_run_folder_that_did_not_come_with_it(
    place: Path, whole: Path, tmp_path: Path, other: str | None
) -> None:
    """Where there is none, or that of an `other` training."""
    work = tmp_path / "work"
    if other:
        assert pretrain(place, work, options=(other,))[0] == 0
    work.mkdir(exist_ok=True)
    for path in (*whole.glob(f"iter_{STEPS}.pth*"), *whole.glob("tokenizer*.json")):
        shutil.copy(path, work / path.name)
    code, said = pretrain(place, work, "--resume", "auto")
    assert code == 0, said
    assert_same_run(work, whole)
    name = f"iter_{STEPS}.pth"
    mine, theirs = (flat(checkpoint.load(one / name)["random_state"]) for one in (work, whole))
    for key, value in theirs.items():  # who extends the run draws as the whole one does
        tensor = isinstance(value, Tensor)
        assert torch.equal(mine[key], value) if tensor else mine[key] == value, key
    written = {name: (work / name).stat().st_mtime_ns for name in (name, "run")}
    assert pretrain(place, work, "--resume", "auto")[0] == 0
    for name, time in written.items():  # nothing is missing: nothing is written
        assert (work / name).stat().st_mtime_ns == time


def test_a_full_disk_stops_the_run_and_with_room_it_goes_on_to_the_same_end(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    weights = (whole / "run" / run_folder.WEIGHTS).stat().st_size
    work = tmp_path / "work"
    for step, size, file in ((2, weights // 2, run_folder.WEIGHTS), (3, 2 * weights, "iter_3.pth")):
        codes, said = life(place, work, EVERY_STEP, AT_ONCE, FULL_AT=f"{step}:{size}")
        line = said.strip().splitlines()[-1]
        assert codes == [2] and "Traceback" not in said, said
        assert line.startswith("error: ") and file in line and "File too large" in line
        assert checkpoint.progress(checkpoint.find_valid(work))[0] == step - 1
        run_folder.verify(work / "run")
        assert not [
            path for path in work.rglob("*") if "partial" in path.name or "writ" in path.name
        ]
    codes, said = life(place, work, EVERY_STEP, AT_ONCE)
    assert codes == [0], said
    assert_same_run(work, whole)


def test_a_run_resumed_by_two_processes_and_by_one_again_sees_the_batches_of_the_whole_run(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for ranks, stop in ((1, "2"), (2, "4"), (1, "-1")):
        codes, said = life(place, work, ranks=ranks, STOP_AT=stop)
        assert codes == [75 if stop != "-1" else 0] * ranks, said
    mine, one = logged(work), logged(whole)
    assert [line["step"] for line in mine] == list(range(1, STEPS + 1))
    for found, wanted in zip(mine, one, strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
    assert run_folder.verify(work).config["samples_seen"] == 16 * STEPS


@pytest.fixture(scope="module")
def stopped(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its second step."""
    work = tmp_path_factory.mktemp("stopped") / "work"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOP_AT", "2")
        assert pretrain(place, work)[0] == 75
    return work


CHANGED = {
    "randomness.seed=1": "seed 0 -> 1",
    "data.global_batch=8": "global batch 16 -> 8",
    "data.image_size=48": "image_size 48",
    "data.max_tokens=20": "max_tokens",
    "data.dataset.scale=(0.5,1.0)": "scale",
    "data.dataset.flip=True": "flip",
    "schedule.steps=9": "9 steps",
    "schedule.warmup=1": "1 of warm-up",
    "optim_wrapper.optimizer.lr=0.01": "0.01",
    "optim_wrapper.optimizer.weight_decay=0.3": "0.3",
    "optim_wrapper.max_norm=2.0": "max_norm",
    "model.objective.local_weight=0.25": "0.25",
    "model.vision.drop_path_rate=0.1": "drop_path_rate",
}


@pytest.mark.parametrize(("option", "told"), CHANGED.items(), ids=CHANGED)
def test_a_run_is_not_resumed_with_another(
    place: Path, stopped: Path, tmp_path: Path, option: str, told: str
) -> None:
    work = tmp_path / "work"
    shutil.copytree(stopped, work, symlinks=True)
    line = refusal(pretrain(place, work, "--resume", "auto", options=(option,)))
    assert told in line and "allow_changes=True" in line
    assert (checkpoint.find_valid(work).name, len(list(work.glob("*.pth")))) == ("iter_2.pth", 1)


def test_a_run_is_not_resumed_with_another_tokenizer_other_tars_or_a_tower_of_another_size(
    place: Path, stopped: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(stopped, work, symlinks=True)
    for option, told in {
        "tokenizer.train=300": "tokenizer",
        f"data.sources={place}/scenes/shards/train-000000.tar": "data set",
        "model.width=8": "of another model",
    }.items():
        assert told in refusal(pretrain(place, work, "--resume", "auto", options=(option,)))
    assert checkpoint.find_valid(work).name == "iter_2.pth"


@pytest.mark.parametrize(
    "words",
    [("--force",), ("--resume", "auto")],
    ids=["force", "resume"],
)
def test_a_second_process_that_is_refused_has_changed_nothing_in_the_work_dir_of_the_first(
    place: Path, stopped: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(stopped, work, symlinks=True)
    parent = os.getppid()
    owner = {**work_dir_lock._me(), "pid": parent, "started": work_dir_lock._started(parent)}
    (work / work_dir_lock.NAME).write_text(json.dumps(owner))
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*")}
    options = ("tokenizer.train=280", "optim_wrapper.optimizer.lr=0.5")
    line = refusal(pretrain(place, work, *words, options=options))
    assert f"in use by process {parent}" in line
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*")} == before
