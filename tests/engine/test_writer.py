"""What is written beside training is the state of its step, whole, and what it meets is told."""

import errno
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint, mmengine_patches
from sparc_pretrain.engine.checkpoint_hook import CheckpointHook
from sparc_pretrain.engine.writer import Writer
from sparc_pretrain.pretraining.hooks import RunFolderHook

BACKGROUND = dict(checkpoint=dict(background=True))


def test_a_copy_is_changed_by_nothing_that_happens_to_the_state_afterwards():
    weight = torch.zeros(2, 3)
    history = HistoryBuffer([1.0], [1])
    state = OrderedDict(w=weight, tied=weight, part=weight[:, 1], deep=[{"n": 1}, (weight,)])
    state["history"] = history
    state._metadata = {"": dict(version=1)}
    writer = Writer(background=True)
    copied = writer.own(state)
    again = writer.own({"w": weight})
    weight.fill_(1)
    history.update(9.0)
    state["deep"][0]["n"] = 2
    assert type(copied) is OrderedDict and copied._metadata == state._metadata
    assert copied["w"].sum() == 0 and copied["part"].tolist() == [0, 0]
    assert copied["deep"][0] == {"n": 1} and copied["deep"][1][0] is copied["w"]
    assert copied["tied"] is copied["w"] and again["w"] is copied["w"]  # and copied once
    assert copied["history"].statistics("current") == 1.0
    writer.forget()
    assert writer.own({"w": weight})["w"].sum() == 6


def test_actions_are_done_in_order_and_none_after_one_that_failed():
    writer, done, go = Writer(background=True), [], threading.Event()

    def fail():
        raise OSError("full")

    writer.do(go.wait)
    for action in (lambda: done.append(1), fail, lambda: done.append(2)):
        writer.do(action)
    assert writer.busy and not done and not writer.failed
    go.set()
    writer.wait()
    assert not writer.busy and done == [1] and writer.failed
    assert str(writer.failure()) == "full" and writer.failure() is None
    writer.do(lambda: done.append(3))
    writer.wait()
    assert done == [1, 3]


def test_without_a_background_all_is_done_at_once_with_the_state_itself():
    writer, state, done = Writer(), {"w": torch.ones(1)}, []
    assert writer.own(state) is state
    writer.do(lambda: done.append(1))
    assert done == [1] and not writer.busy
    with pytest.raises(ZeroDivisionError):
        writer.do(lambda: 1 / 0)


@HOOKS.register_module(force=True)
class AfterTheWriter(Hook):
    """No step begins while the checkpoint before it is being written."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        next(h for h in runner.hooks if isinstance(h, CheckpointHook)).writer.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """14 steps whose checkpoints were written while training stood still."""
    work_dir = tmp_path_factory.mktemp("whole")
    toy_run.train(work_dir)
    return work_dir


def steps(work_dir: Path) -> int:
    return len((work_dir / "seen-0.jsonl").read_text().splitlines())


def test_training_goes_on_during_a_save_that_holds_the_state_of_its_own_step(
    tmp_path, whole, monkeypatch
):
    seen = []

    def slowly(state, path, *shards):
        if state["meta"]["iter"] == 10:
            while steps(tmp_path) < 13:  # the 14th saves, and waits
                time.sleep(0.01)
            seen.append(steps(tmp_path))
        checkpoint.save(state, path)

    monkeypatch.setattr(mmengine_patches, "save", slowly)
    toy_run.train(tmp_path, **BACKGROUND)
    assert seen == [13]
    assert (tmp_path / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()
    found, wanted = (checkpoint.load(place / "iter_10.pth") for place in (tmp_path, whole))
    for part in ("state_dict", "ema_state_dict"):
        assert found[part].keys() == wanted[part].keys()
        assert all(torch.equal(found[part][k], v) for k, v in wanted[part].items())
    moments, others = (one["optimizer"]["state"][0]["exp_avg"] for one in (found, wanted))
    assert torch.equal(moments, others)
    checkpoint.verify(tmp_path / "iter_14.pth")
    assert (tmp_path / "last_checkpoint").read_text() == str(tmp_path / "iter_14.pth")


def no_room(state, path, *shards):
    if state["meta"]["iter"] == 10:
        raise OSError(errno.ENOSPC, f"cannot write {path}")
    checkpoint.save(state, path)


def test_what_a_save_met_is_raised_at_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr(mmengine_patches, "save", no_room)
    with pytest.raises(OSError, match=r"cannot write .*iter_10\.pth"):
        toy_run.train(tmp_path, hooks=[dict(type="AfterTheWriter")], **BACKGROUND)
    assert max(toy_run.seen(tmp_path)) == 10
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"


def test_with_on_full_continue_training_goes_on_without_the_save(tmp_path, monkeypatch):
    monkeypatch.setattr(mmengine_patches, "save", no_room)
    toy_run.train(tmp_path, checkpoint=dict(background=True, on_full="continue"))
    names = {path.name for path in tmp_path.glob("*.pth")}
    assert names == {"iter_5.pth", "iter_14.pth"}  # the fifth had no successor to go for


def test_two_processes_end_together_over_a_save_that_the_first_could_not_write(tmp_path):
    options = dict(checkpoint=dict(background=True), width=512)
    assert toy_run.spawn(2, work_dir=tmp_path, limit=(10, 20_000), **options) == [2, 2]
    for number in (0, 1):
        assert "needs about" in (tmp_path / f"error-{number}.txt").read_text()
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"


def test_a_stop_waits_for_the_save_and_the_resumed_run_equals_the_whole_one(tmp_path, whole):
    term = {"rank 0 step 7": [15]}
    assert toy_run.spawn(work_dir=tmp_path, signals=term, **BACKGROUND) == [75]
    assert checkpoint.find_valid(tmp_path).name == "iter_7.pth"
    toy_run.train(tmp_path, resume="auto", **BACKGROUND)
    assert (tmp_path / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()


def test_the_run_folder_is_refreshed_at_every_so_many_saves_and_at_the_end(monkeypatch, tmp_path):
    published = []
    monkeypatch.setattr(run_folder, "publish", lambda place, step, *content: published.append(step))
    monkeypatch.setattr(run_folder, "write", lambda place, *content: published.append(place.name))
    encoder = SimpleNamespace(tokenizer=None)
    model = SimpleNamespace(
        encoder=encoder, run_weights=lambda state: state, run_config=lambda seen: {}
    )
    saver = CheckpointHook(by_epoch=False)
    runner = SimpleNamespace(
        hooks=[saver],
        model=model,
        iter=0,
        max_iters=50,
        work_dir=tmp_path,
        train_dataloader=SimpleNamespace(batch_size=2),
    )
    hook = RunFolderHook(every=3)
    hook.before_train(runner)
    for step in range(10, 60, 10):
        hook.before_save_checkpoint(runner, dict(meta=dict(iter=step), state_dict={}))
    saver.saving_best = True
    hook.before_save_checkpoint(runner, dict(meta=dict(iter=20), state_dict={}))
    assert published == [10, 40, 50, "best"]
    with pytest.raises(ValueError, match="1 or more"):
        RunFolderHook(every=0)
