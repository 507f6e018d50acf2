"""An interrupted run that resumes equals the run that was never interrupted, bit for bit."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.engine import checkpoint, mmengine_patches, random_state


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(work dir, state hash) of 14 steps with validation and save_best."""
    work_dir = tmp_path_factory.mktemp("whole")
    runner = toy_run.train(work_dir, validate=True)
    return work_dir, toy_run.state_hash(runner)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_interrupted_twice_equals_the_uninterrupted_one(tmp_path, uninterrupted, workers):
    for stop in (7, 11):
        with pytest.raises(toy_run.Stop):
            toy_run.train(
                tmp_path, resume="auto", stop=stop, workers=workers, validate=workers != 1
            )
    runner = toy_run.train(tmp_path, resume="auto", workers=workers, validate=workers != 1)
    assert toy_run.state_hash(runner) == uninterrupted[1]
    assert toy_run.seen(tmp_path) == toy_run.seen(uninterrupted[0])


def test_an_epoch_based_run_resumes_exactly_at_the_epoch(tmp_path):
    whole = toy_run.train(tmp_path / "whole", epochs=3, validate=True, workers=1)
    with pytest.raises(toy_run.Stop):
        toy_run.train(tmp_path / "cut", epochs=3, validate=True, workers=1, stop=20)
    runner = toy_run.train(tmp_path / "cut", epochs=3, validate=True, workers=1, resume="auto")
    assert toy_run.state_hash(runner) == toy_run.state_hash(whole)
    assert toy_run.seen(tmp_path / "cut") == toy_run.seen(tmp_path / "whole")


def test_without_the_random_states_the_resumed_run_differs(tmp_path, uninterrupted, monkeypatch):
    monkeypatch.setattr(random_state, "restore", lambda state: None)
    with pytest.raises(toy_run.Stop):
        toy_run.train(tmp_path, stop=7)
    with pytest.raises(AssertionError, match="a repeated step differs"):
        toy_run.train(tmp_path, resume="auto")
        toy_run.seen(tmp_path)


def test_resuming_at_the_last_step_changes_nothing(tmp_path):
    first = toy_run.state_hash(toy_run.train(tmp_path, steps=5))
    assert toy_run.state_hash(toy_run.train(tmp_path, steps=5, resume="auto")) == first
    assert len(toy_run.seen(tmp_path)) == 5


def test_load_from_takes_the_weights_and_not_the_random_state(tmp_path):
    toy_run.train(tmp_path / "a", steps=5)
    runner = toy_run.train(tmp_path / "b", steps=6, load_from=tmp_path / "a" / "iter_5.pth")
    assert runner.iter == 6


def test_a_checkpoint_ahead_of_the_run_is_set_aside_not_resumed(tmp_path):
    toy_run.train(tmp_path, steps=10, checkpoint=dict(max_keep_ckpts=-1))
    with pytest.raises(toy_run.Stop):
        toy_run.train(tmp_path, resume=tmp_path / "iter_5.pth", steps=10, stop=7)
    assert checkpoint.find_valid(tmp_path).name == "iter_5.pth"
    assert (tmp_path / "iter_10.pth.aside").exists()


def test_a_checkpoint_of_another_model_is_refused_in_one_line(tmp_path):
    toy_run.train(tmp_path, steps=5)
    with pytest.raises(ValueError, match=r"net\.0\.bias|size mismatch"):
        toy_run.train(tmp_path, steps=10, resume="auto", width=24)


def test_weights_saved_under_torch_compile_or_ddp_resume_in_a_plain_model(tmp_path):
    whole = toy_run.train(tmp_path / "whole", steps=8)
    with pytest.raises(toy_run.Stop):
        toy_run.train(tmp_path / "cut", steps=8, stop=6)
    state = checkpoint.load(tmp_path / "cut" / "iter_5.pth")
    weights = state["state_dict"].items()
    state["state_dict"] = {f"module._orig_mod.{k}": v for k, v in weights}
    averaged = state["ema_state_dict"].items()
    state["ema_state_dict"] = {k.replace("module.", "module._orig_mod.", 1): v for k, v in averaged}
    torch.save(state, tmp_path / "prefixed.pth")
    runner = toy_run.train(tmp_path / "cut", steps=8, resume=tmp_path / "prefixed.pth")
    assert toy_run.state_hash(runner) == toy_run.state_hash(whole)


@pytest.mark.parametrize(
    ("name", "content"),
    [("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(64)), ("empty.pth", b""), ("t.pth", b"hello")],
)
def test_a_wrong_file_to_resume_from_is_named_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        mmengine_patches.resolve_resume(tmp_path, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_weights_alone_cannot_be_resumed_from(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="lacks meta, message_hub, optimizer"):
        mmengine_patches.resolve_resume(tmp_path, tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        mmengine_patches.resolve_resume(tmp_path, tmp_path / "nothing.pth")
    assert mmengine_patches.resolve_resume(tmp_path, None) is None
    assert mmengine_patches.resolve_resume(tmp_path, "auto") is None


def test_snapshot_and_restore_cover_all_three_generators():
    import random

    import numpy as np

    state = random_state.snapshot()
    first = (random.random(), np.random.rand(), torch.rand(1).item())
    random_state.restore(through_a_file(state))
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def through_a_file(state):
    """`state` after the round trip through a file that a checkpoint makes."""
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_two_ranks_resume_exactly_and_one_rank_goes_on_with_a_warning(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert toy_run.spawn(2, work_dir=whole, steps=8) == [0, 0]
    # ranks differ either way: mmengine's own seeds per rank give the same run, and resume alike
    apart = dict(work_dir=cut, steps=8, diff_rank_seed=True)
    assert toy_run.spawn(2, stop=7, **apart) == [2, 2]
    assert toy_run.spawn(2, resume="auto", **apart) == [0, 0]
    assert (cut / "hash-0.txt").read_text() == (whole / "hash-0.txt").read_text()
    for number in (0, 1):
        assert toy_run.seen(cut, number) == toy_run.seen(whole, number)
    assert toy_run.seen(whole, 0)[6]["loss"] != toy_run.seen(whole, 1)[6]["loss"]
    runner = toy_run.train(cut, steps=9, resume="auto")  # the world has shrunk to one
    assert runner.iter == 9
    assert json.loads((cut / "iter_9.pth.manifest.json").read_text())["iter"] == 9
