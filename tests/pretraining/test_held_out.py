"""Validation of a pre-training on held-out pairs, its best weights and their moving average."""

# ruff: noqa: F811 (fixtures)
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sparc_pretrain import run_folder
from sparc_pretrain.engine import checkpoint
from sparc_pretrain.objectives.clip import Clip
from sparc_pretrain.pretraining import held_out as held_out_loop
from sparc_pretrain.pretraining.held_out import HeldOutLoop, HeldOutSampler, _recall, sections
from tests.commands import refusal
from tests.models import batch, pretrainer
from tests.small_pretraining import (  # noqa: F401 (fixtures)
    STEPS,
    assert_same_run,
    config_text_as_it_is,
    life,
    one_thread,
    place,
    pretrain,
    whole,
)

RATE = 0.25  # of the moving average


def held_out(place: Path, **more) -> tuple[str, ...]:
    """Options that validate every other step on the first tar, and keep the best."""
    values = dict(sources=f"{place}/scenes/shards/train-000000.tar", interval=2, pairs=16, **more)
    options = [f"data.held_out.{key}={value}" for key, value in values.items()]
    return *options, "default_hooks.checkpoint.save_best=loss"


def validated(work: Path) -> list[dict]:
    """The lines of the log that a validation wrote."""
    files = sorted(work.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if "R@1" in line]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A training with validation."""
    work = place / "validated"
    code, said = pretrain(place, work, options=held_out(place))
    assert code == 0, said
    return work


def test_losses_and_retrieval_of_held_out_pairs_are_logged_and_change_nothing(
    run: Path, whole: Path
) -> None:
    lines = validated(run)
    assert len(lines) == STEPS // 2
    for line in lines:
        assert line["loss"] == pytest.approx(line["global_loss"] + line["local_loss"], rel=0.5)
        assert 0 <= line["R@1"] == pytest.approx((line["i2t_R@1"] + line["t2i_R@1"]) / 2)
        assert line["i2t_R@5"] >= line["i2t_R@1"]
    assert lines[-1]["loss"] < lines[0]["loss"]
    found, wanted = (checkpoint.load(w / f"iter_{STEPS}.pth")["state_dict"] for w in (run, whole))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_the_best_weights_so_far_are_a_checkpoint_and_a_run_folder(run: Path) -> None:
    best = min(validated(run), key=lambda line: line["loss"])["step"]
    assert (run / f"best_loss_iter_{best}.pth").is_file()
    assert run_folder.verify(run / "best").config["samples_seen"] == 16 * best
    assert run_folder.verify(run / "run").config["samples_seen"] == 16 * STEPS


def test_two_processes_measure_what_one_does(place: Path, run: Path, tmp_path: Path) -> None:
    codes, said = life(place, tmp_path / "two", *held_out(place), ranks=2)
    assert codes == [0, 0], said
    for found, wanted in zip(validated(tmp_path / "two"), validated(run), strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
        for name in ("i2t_R@1", "t2i_R@1", "i2t_R@5", "t2i_R@5"):  # one of 16 may be a near tie
            assert found[name] == pytest.approx(wanted[name], abs=1 / 16 + 1e-6), name


def test_fewer_pairs_than_a_global_batch_and_other_keys_are_refused(
    place: Path, tmp_path: Path
) -> None:
    line = refusal(pretrain(place, tmp_path, options=(*held_out(place), "data.held_out.pairs=8")))
    assert "8 pairs, fewer than one global batch of 16" in line
    line = refusal(pretrain(place, tmp_path, options=held_out(place, often=3)))
    assert "data.held_out takes" in line and "often" in line


def test_the_smallest_validation_and_what_is_taken_where_nothing_is_said() -> None:
    assert sorted(HeldOutSampler(range(8), 8, 40)) == [(index, 0) for index in range(8)]
    loader = dict(batch_size=8, sampler="train", dataset=dict(type="PairDataset", train=True))
    found = sections(dict(sources="x", interval=1), loader, 8)["val_dataloader"]
    assert found["sampler"] == dict(type="sparc.HeldOutSampler", global_batch=8, pairs=1024)
    assert found["dataset"] == dict(type="PairDataset", sources="x", train=False)
    with pytest.raises(ValueError, match="interval=0: 1 step or more"):
        sections(dict(sources="x", interval=0), loader, 8)


@pytest.mark.parametrize("amp", [False, True])
def test_the_model_is_measured_without_dropout_in_the_precision_of_the_training(amp: bool) -> None:
    model, seen = pretrainer(dict(type="Clip")).train(), []
    model.encoder.vision.register_forward_pre_hook(
        lambda tower, _: seen.append((tower.training, torch.is_autocast_enabled("cpu")))
    )
    options = dict(call_hook=lambda *_, **__: None, optim_wrapper=SimpleNamespace(amp=amp))
    batches = [batch(8), batch(8, seed=1)]
    found = HeldOutLoop(SimpleNamespace(model=model, **options), batches).run()
    assert seen == [(False, amp)] * 2 and 0 <= found["R@1"] <= 1
    with torch.no_grad():
        own = [model.objective(model.features(one), one) for one in batches]
    wanted = sum(one["global_loss"].item() for one in own) / 2
    assert found["loss"] == pytest.approx(wanted, rel=0.02 if amp else 1e-5)
    assert own[0]["global_loss"].item() != pytest.approx(own[1]["global_loss"].item(), rel=0.02)


def test_sums_are_over_all_processes_and_retrieval_is_among_the_pairs_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, shapes, recall = pretrainer(dict(type="Clip")), [], held_out_loop.retrieval.recall
    monkeypatch.setattr(
        held_out_loop.retrieval, "recall", lambda s, *a: shapes.append(s.shape) or recall(s, *a)
    )
    options = dict(call_hook=lambda *_, **__: None, optim_wrapper=None)
    loop = HeldOutLoop(SimpleNamespace(model=model, **options), [batch(8), batch(8, seed=1)])
    alone = loop.run()
    monkeypatch.setattr(held_out_loop, "world_size", lambda: 2)
    monkeypatch.setattr(held_out_loop, "total", lambda x: 2 * x)
    monkeypatch.setattr(held_out_loop, "gather_objects", lambda own: [own, own])
    assert loop.run()["loss"] == pytest.approx(alone["loss"])
    assert shapes == [(16, 16), (32, 32)]


def test_retrieval_is_the_mean_of_both_ways_among_the_pairs_of_all_batches() -> None:
    image = torch.eye(3)
    text = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.9, 0, 0.5]])  # the last is nearer to the first
    parts = [
        (SimpleNamespace(image=image[rows]), SimpleNamespace(text=text[rows]))
        for rows in (slice(2), slice(2, 3))
    ]
    found = _recall(Clip(), parts, torch.device("cpu"))
    assert (found["i2t_R@1"], found["i2t_R@5"]) == (1, 1)
    assert found["t2i_R@1"] == pytest.approx(2 / 3) and found["R@1"] == pytest.approx(5 / 6)


def test_every_process_has_its_share_of_the_same_global_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = list(HeldOutSampler(range(50), 8, 40))
    assert len(whole) == 40 and len(set(whole)) == 40
    assert max(whole)[0] > 40 and whole != sorted(whole)  # drawn from all of them
    parts = []
    for number in range(2):
        monkeypatch.setattr("sparc_pretrain.pretraining.held_out.world_size", lambda: 2)
        monkeypatch.setattr("sparc_pretrain.pretraining.held_out.rank", lambda n=number: n)
        parts.append(list(HeldOutSampler(range(50), 8, 40)))
    for number in range(5):
        first, second = (part[4 * number : 4 * number + 4] for part in parts)
        assert [*first, *second] == whole[8 * number : 8 * number + 8]


def test_the_run_folder_holds_the_moving_average_and_the_training_goes_on_without(
    place: Path, whole: Path, tmp_path: Path
) -> None:
    leaf = (place / "leaf.py").read_text()
    hook = f"dict(type='EMAHook', momentum={RATE}), *_base_.custom_hooks]"
    (place / "average").mkdir()
    (place / "average" / "leaf.py").write_text(leaf.replace("*_base_.custom_hooks]", hook))
    code, said = pretrain(place / "average", tmp_path / "work")
    assert code == 0, said
    saved = checkpoint.load(tmp_path / "work" / f"iter_{STEPS}.pth")
    trained = checkpoint.load(whole / f"iter_{STEPS}.pth")["state_dict"]
    own = {name.removeprefix("module."): v for name, v in saved["ema_state_dict"].items()}
    assert all(torch.equal(own[name], value) for name, value in trained.items())
    published = run_folder.verify(tmp_path / "work").weights()
    for name, value in saved["state_dict"].items():
        assert torch.equal(published[name.removeprefix("encoder.")], value), name
    assert not torch.equal(published["adapters.g_v.bias"], trained["encoder.adapters.g_v.bias"])
    moved = tmp_path / "moved"  # the checkpoint without its run folder: the same average again
    moved.mkdir()
    for path in (*(tmp_path / "work").glob(f"iter_{STEPS}.pth*"), *whole.glob("tokenizer*.json")):
        shutil.copy(path, moved / path.name)
    code, said = pretrain(place / "average", moved, "--resume", "auto")
    assert code == 0, said
    again = run_folder.verify(moved).weights()
    assert all(torch.equal(again[name], value) for name, value in published.items())
