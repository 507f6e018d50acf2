"""Checkpoints against configs: what `load_from`, `--resume` and tools/test.py take, and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sparc_pretrain.engine import checkpoint
from tests.commands import call, refusal
from tests.transfer.small_sets import coco, detector, hasten, quick, write  # noqa: F401
from tools import train

pytestmark = pytest.mark.usefixtures("quick")

COSINE = """
train_cfg = dict(max_iters={steps}, val_interval=100)
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=False, begin=0, end={steps},
    T_max={steps}, eta_min=0)]
optim_wrapper = dict(optimizer=dict(lr={rate}))
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=9))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write(folder, coco())
    return folder


@pytest.fixture(scope="module")
def first(place: Path) -> Path:
    """The checkpoint of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        assert trained(place, place / "first", detector(place)) == (0, "")
    return place / "first" / "iter_2.pth"


def trained(place: Path, work: Path, config: Path, *words: str) -> tuple[int, str]:
    name = f"experiment_name={place.name}-{work.name}-{'-'.join(words)[:40]}-{config.stem}"
    return call("train", config, "--work-dir", work, *words, "--cfg-options", name)


def rates(work: Path) -> list[float]:
    """Learning rates of all logged steps, in the order they were trained."""
    rows = [
        json.loads(line)
        for path in sorted(work.glob("2*/vis_data/scalars.json"), key=lambda p: p.stat().st_mtime)
        for line in path.read_text().splitlines()
    ]
    return [row["lr"] for row in rows if "lr" in row]


# ------------------------------------------------------------------ testing


def test_a_checkpoint_of_averaged_weights_is_tested_as_it_was_validated(
    place: Path, tmp_path: Path
) -> None:
    stock = "dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=2e-4, update_buffers=True)"
    config = detector(place, f"custom_hooks = [{stock}]", "ema.py")
    assert trained(place, tmp_path / "work", config) == (0, "")
    words = [tmp_path / "work" / "ema.py", tmp_path / "work" / "iter_2.pth"]
    option = f"experiment_name={tmp_path.name}-tested"
    assert call("test", *words, "--work-dir", tmp_path / "t", "--cfg-options", option) == (0, "")
    validated, tested = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("work", "t")
    )
    assert tested["metrics"] == validated["metrics"]
    state = checkpoint.load(tmp_path / "work" / "iter_2.pth")
    average = state["ema_state_dict"]  # where the weights as trained are kept
    moved = [k for k in state["state_dict"] if not torch.equal(
        state["state_dict"][k], average[f"module.{k}"])]  # fmt: skip
    assert moved


def test_a_checkpoint_that_does_not_fit_is_refused_before_it_is_tested(
    place: Path, first: Path, tmp_path: Path
) -> None:
    config, state = detector(place), checkpoint.load(first)
    state["state_dict"]["bbox_head.foreign"] = state["state_dict"].pop("bbox_head.conv_cls.bias")
    torch.save({"state_dict": state["state_dict"]}, tmp_path / "other.pth")
    said = refusal(call("test", config, tmp_path / "other.pth", "--work-dir", tmp_path / "t"))
    assert "other.pth does not fit" in said and "bbox_head.conv_cls.bias" in said
    assert "bbox_head.foreign" in said and "--backbone" in said


# ------------------------------------------------------------------ load_from


def test_load_from_what_matches_nothing_is_refused_with_the_first_names(
    place: Path, tmp_path: Path
) -> None:
    timm = {f"backbone.blocks.{i}.attn.qkv.weight": torch.ones(2) for i in range(20)}
    for name, weights in (("foo", {"foo.weight": torch.ones(2)}), ("timm", timm)):
        torch.save({"state_dict": weights}, tmp_path / f"{name}.pth")
        config = detector(place, f"load_from = {str(tmp_path / f'{name}.pth')!r}", "loads.py")
        said = refusal(trained(place, tmp_path / name, config))
        assert f"{name}.pth" in said and "0 of " in said and "--load-partially" in said
        assert next(iter(weights)) in said and "backbone.tower.net.blocks" in said
        assert said.count("blocks.") <= 20, "the first names, not all"
        assert not list((tmp_path / name).glob("*.pth"))


def test_a_checkpoint_of_the_same_backbone_may_have_other_classes_and_the_log_says_so(
    place: Path, first: Path, tmp_path: Path
) -> None:
    state = checkpoint.load(first)["state_dict"]
    head = {k: v for k, v in state.items() if k.startswith("bbox_head.conv_cls")}
    state |= {k: torch.cat([v, v, v]) for k, v in head.items()}
    torch.save(state, tmp_path / "six.pth")  # weights alone, of six classes
    config = detector(place, f"load_from = {str(tmp_path / 'six.pth')!r}", "six.py")
    assert trained(place, tmp_path / "second", config) == (0, "")
    (log,) = (tmp_path / "second").glob("2*/*.log")
    (line,) = [row for row in log.read_text().splitlines() if "load_from" in row and "fit" in row]
    assert "of another shape ['bbox_head.conv_cls.bias', 'bbox_head.conv_cls.weight']" in line
    whole = len(state)
    assert f"{whole - 2} of {whole} tensors" in line


def test_with_the_option_what_fits_is_taken_and_the_ratio_logged(
    place: Path, first: Path, tmp_path: Path
) -> None:
    state = checkpoint.load(first)["state_dict"]
    lost = [name for name in state if "blocks.1" in name]
    torch.save({k: v for k, v in state.items() if k not in lost}, tmp_path / "part.pth")
    config = detector(place, f"load_from = {str(tmp_path / 'part.pth')!r}", "part.py")
    assert "blocks.1" in refusal(trained(place, tmp_path / "second", config))
    assert trained(place, tmp_path / "second", config, "--load-partially")[0] == 0
    logs = "".join(path.read_text() for path in (tmp_path / "second").glob("2*/*.log"))
    kept = len(state) - len(lost)
    assert f"{kept} of {len(state)} tensors ({kept / len(state):.1%})" in logs


# ------------------------------------------------------------------ resuming


@pytest.mark.parametrize("left", ["nothing", "an earlier validation"])
def test_a_training_stopped_in_its_last_validation_is_validated_when_it_is_resumed(
    place: Path, tmp_path: Path, left: str
) -> None:
    config, record = detector(place), tmp_path / "w" / "metrics.json"
    assert trained(place, tmp_path / "w", config) == (0, "")
    whole = json.loads(record.read_text())
    if left == "nothing":
        record.unlink()
    else:
        record.write_text(json.dumps({**whole, "metrics": {}, "protocol": {"iterations": 1}}))
    assert trained(place, tmp_path / "w", config, "--resume")[0] == 0
    again = json.loads(record.read_text())
    assert again["metrics"] == whole["metrics"] and again["protocol"] == whole["protocol"]
    written = record.stat().st_mtime_ns
    assert trained(place, tmp_path / "w", config, "--resume")[0] == 0
    assert record.stat().st_mtime_ns == written  # it is there: nothing is computed again


def test_another_schedule_or_rate_is_refused_on_resume_with_both_sides(
    place: Path, tmp_path: Path
) -> None:
    first = detector(place, COSINE.format(steps=4, rate=1e-3), "c.py")
    assert trained(place, tmp_path / "w", first) == (0, "")
    longer = detector(place, COSINE.format(steps=8, rate=1e-3), "c.py")
    said = refusal(trained(place, tmp_path / "w", longer, "--resume"))
    assert "CosineAnnealingLR.T_max 4 in the checkpoint, 8 in the config" in said
    assert "--resume-schedule new" in said
    faster = detector(place, COSINE.format(steps=4, rate=1e-2), "c.py")
    said = refusal(trained(place, tmp_path / "w", faster, "--resume"))
    assert "learning rate 0.001 in the checkpoint, 0.01 in the config" in said
    decayed = COSINE.format(steps=4, rate=1e-3).replace("dict(lr", "dict(weight_decay=0.2, lr")
    said = refusal(trained(place, tmp_path / "w", detector(place, decayed, "c.py"), "--resume"))
    assert "weight_decay 0.05 in the checkpoint, 0.2 in the config" in said


def test_the_same_schedule_goes_on_and_a_new_one_is_that_of_an_unbroken_training(
    place: Path, tmp_path: Path
) -> None:
    short = detector(place, COSINE.format(steps=4, rate=1e-3), "c.py")
    assert trained(place, tmp_path / "w", short) == (0, "")
    (tmp_path / "w" / "iter_4.pth").rename(tmp_path / "away.pth")
    (tmp_path / "w" / "last_checkpoint").write_text(str(tmp_path / "w" / "iter_3.pth"))
    assert trained(place, tmp_path / "w", short, "--resume")[0] == 0
    long = detector(place, COSINE.format(steps=8, rate=2e-3), "c.py")
    assert trained(place, tmp_path / "w", long, "--resume", "--resume-schedule", "new")[0] == 0
    assert trained(place, tmp_path / "whole", long) == (0, "")
    assert rates(tmp_path / "w")[-4:] == pytest.approx(rates(tmp_path / "whole")[-4:])


def test_a_new_schedule_by_epochs_after_a_warm_up_by_steps_stands_where_it_would(
    place: Path, tmp_path: Path
) -> None:
    plan = """
train_dataloader = dict(sampler=dict(type="DefaultSampler"))
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs={epochs}, val_interval=9)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=9, milestones={drops}, gamma=0.1)]
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
"""
    short = detector(place, plan.format(epochs=2, drops=[1]), "c.py")
    assert trained(place, tmp_path / "w", short) == (0, "")
    long = detector(place, plan.format(epochs=4, drops=[3]), "c.py")
    assert trained(place, tmp_path / "w", long, "--resume", "--resume-schedule", "new")[0] == 0
    assert trained(place, tmp_path / "whole", long) == (0, "")
    assert rates(tmp_path / "w")[-4:] == pytest.approx(rates(tmp_path / "whole")[-4:])


def test_the_command_line_has_the_options() -> None:
    args = train.parse(["c.py", "--resume-schedule", "new", "--load-partially"])
    assert args.resume_schedule == "new" and args.load_partially
