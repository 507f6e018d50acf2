"""Fine-tunings of a study's run folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sparc_pretrain.study import plan, sheets, statistics, store, transfers
from tests.commands import ROOT, tool

EASY = ROOT / "configs" / "study" / "transfer_easy.py"
FAKE = """
import json, sys
from pathlib import Path
place = Path(sys.argv[sys.argv.index("--work-dir") + 1])
place.mkdir(exist_ok=True)
(place / "given.json").write_text(json.dumps(sys.argv[1:]))
if "fail.py" in sys.argv[1]:
    sys.exit(3)
unit = lambda name: dict(unit="percent" if name == "mIoU" else "share")
numbers = {"coco/bbox_AP": 0.5, "mIoU": 69.5, "coco/bbox_APs": -1.0, "share": None}
told = dict(metrics=numbers, described={name: unit(name) for name in numbers})
(place / "metrics.json").write_text(json.dumps(told))
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def run(folder: Path) -> SimpleNamespace:
        name = folder.parent / "weights"  # what the backbone's sha256 stands for here
        return SimpleNamespace(sha256=name.read_text() if name.exists() else "first")

    monkeypatch.setattr(transfers.run_folder, "open_run", run)
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    return [sys.executable, str(script)]


def one(name: str = "det", config: str = "det.py", **more: object) -> transfers.Transfer:
    return transfers.Transfer(name, config, {"train_cfg.max_iters": 7}, **more)


def test_each_run_is_fine_tuned_once_and_read_as_shares(tmp_path: Path, fake: list[str]):
    folder = tmp_path / "clip-3"
    folder.mkdir()
    found = transfers.measure([one()], folder, 3, fake, amp=True)
    assert {name: measure.items for name, measure in found.items()} == {
        "det bbox_AP": [0.5],
        "det mIoU": [0.695],
    }
    given = json.loads((folder / "det" / "given.json").read_text())
    read = tool("train").parse(given)
    assert (read.config, read.backbone, read.amp) == ("det.py", str(folder / "train"), True)
    assert read.cfg_options == {"randomness.seed": 3, "train_cfg.max_iters": 7}
    assert read.resume == "auto"
    nothing = [sys.executable, "-c", "raise SystemExit(1)"]
    again = transfers.measure([one(metrics=("mIoU",))], folder, 3, nothing, amp=True)
    assert list(again) == ["det mIoU"]


def test_only_what_ended_as_the_same_fine_tuning_of_the_same_backbone_is_read(
    tmp_path: Path, fake: list[str]
):
    folder = tmp_path / "clip-0"
    (folder / "det").mkdir(parents=True)
    told = dict(metrics={"mIoU": 1.0}, described={})  # of an earlier validation, then cut off
    (folder / "det" / "metrics.json").write_text(json.dumps(told))
    found = transfers.measure([one()], folder, 0, fake, amp=False)
    assert found["det mIoU"].items == [0.695]
    changed = [(one(content="b"), 0, False), (one(), 1, False), (one(), 0, True)]
    for what, seed, amp in changed:
        with pytest.raises(ValueError, match=r"det is of another fine-tuning or backbone"):
            transfers.measure([what], folder, seed, fake, amp)
    (folder / "weights").write_text("second")
    with pytest.raises(ValueError, match=r"det is of another fine-tuning or backbone"):
        transfers.measure([one()], folder, 0, fake, amp=False)


def test_what_fails_or_measures_nothing_is_named(tmp_path: Path, fake: list[str]):
    with pytest.raises(ValueError, match=r"det of clip-0 ended with code 3"):
        folder = tmp_path / "clip-0"
        folder.mkdir()
        transfers.measure([one(config="fail.py")], folder, 0, fake, amp=False)
    with pytest.raises(ValueError, match=r"no metric 'coco/bbox_ap'.*coco/bbox_AP"):
        transfers.measure([one("again", metrics=("coco/bbox_ap",))], folder, 0, fake, amp=False)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (dict(det=dict(config=str(EASY))), "no task"),
        (dict(det=dict(options={})), "det has no config"),
        (dict(det=dict(configs="x")), r"det.configs is unknown \(did you mean 'config'"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(section: dict, words: str):
    with pytest.raises(ValueError, match=words):
        transfers.read(section)


def test_the_quickstarts_backbones_are_compared_in_all_three_tasks():
    study = plan.read(EASY)
    assert [one.name for one in study.transfers] == ["detection", "segmentation", "caption"]
    kept = {f"{t.name} {key.rpartition('/')[2]}" for t in study.transfers for key in t.metrics}
    assert {name for name in study.primary if " " in name} <= kept
    ours, quickstart = study.cell_config(study.cells()[0]), plan.read(EASY).recipe
    assert ours.model.objective == quickstart.model.objective
    assert ours.schedule == quickstart.schedule


def record(arm: str, seed: int, value: float, recipe: dict) -> dict:
    number = {"det bbox_AP": [value]}
    groups = {"det bbox_AP": [1]}
    return dict(
        arm=arm, seed=seed, items=number, groups=groups, table="main", transfers=recipe, cost={}
    )


def test_single_numbers_are_compared_over_seeds():
    values = {"ours": (0.6, 0.62, 0.61), "clip": (0.4, 0.41, 0.42)}
    done = [record(arm, n, v, {}) for arm, row in values.items() for n, v in enumerate(row)]
    rows = statistics.table(done, "clip", ("det bbox_AP",), {})
    row = next(row for row in rows if row["arm"] == "ours")
    assert row["difference"] == pytest.approx(0.2)
    assert 0.15 < row["low"] < 0.2 < row["high"] < 0.25


def test_one_number_of_one_seed_has_no_interval():
    """A page had +0.094 [+0.094, +0.094], as if it were exact."""
    done = [record(arm, 0, value, {}) for arm, value in (("ours", 0.501), ("clip", 0.407))]
    row = next(r for r in statistics.table(done, "clip", (), {}) if r["arm"] == "ours")
    assert row["low"] is None and row["high"] is None
    assert sheets.entry(row).lines == ("0.501", "+0.094")


def test_cells_of_two_fine_tunings_make_no_table(tmp_path: Path):
    study = plan.read(EASY)
    cell = study.cells()[0]
    how = {"recipe": study.recipe_of(cell), "transfers": {"detection": {"config": "another"}}}
    store.write_record(tmp_path, cell, {}, {}, how)
    with pytest.raises(ValueError, match=r"another study\.transfers\.detection"):
        store.finished(study, tmp_path)
    how["transfers"] = {one.name: one.recipe for one in study.transfers}
    store.write_record(tmp_path, cell, {}, {}, how)
    assert len(store.finished(study, tmp_path)) == 1
    changed = {name: told | {"content": "0"} for name, told in how["transfers"].items()}
    store.write_record(tmp_path, cell, {}, {}, how | {"transfers": changed})
    with pytest.raises(ValueError, match=r"another study\.transfers\.detection"):
        store.finished(study, tmp_path)
    for told in how["transfers"].values():  # as records of before were
        del told["content"]
    store.write_record(tmp_path, cell, {}, {}, how)
    assert len(store.finished(study, tmp_path)) == 1


def test_the_content_of_a_config_tells_what_it_trains_not_how_it_logs(tmp_path: Path):
    config = tmp_path / "config.py"

    def content(text: str) -> str:
        config.write_text(f"_base_ = 'sparc_pretrain::quickstart/det.py'\n{text}")
        [found] = transfers.read(dict(det=dict(config=str(config))))
        return found.content

    first = content("")
    assert content("default_hooks = dict(logger=dict(interval=7))") == first
    assert content("optim_wrapper = dict(optimizer=dict(lr=7.))") != first
    assert content("train_cfg = dict(max_iters=7)") != first
    assert content("custom_hooks = [dict(type='EMAHook')]") != first
    assert content("val_evaluator = dict(metric=['segm'])") != first
    assert content("val_dataloader = dict(dataset=dict(ann_file='b.json'))") != first
    assert content("test_dataloader = dict(dataset=dict(ann_file='b.json'))") == first
    config.write_text("_base_ = 'sparc_pretrain::quickstart/det.py'")
    [found] = transfers.read(dict(det=dict(config=str(config), options={"train_cfg.max_iters": 7})))
    assert found.content == content("train_cfg = dict(max_iters=7)")
