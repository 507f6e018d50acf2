"""tools/measure/bench.py: memory is that of the cell, and the all-pairs objectives grow with the
square; ratios are of pairs, and what is compared is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.commands import ROOT, call, command, refusal, tool

PROGRAM = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[3]); folder.mkdir()
import step_clock, sparc_pretrain  # both are found by what is started
seconds = [9.0, 1.0, 3.0, 2.0]
(folder / "steps.json").write_text(json.dumps({"wall": seconds, "cpu": [s / 2 for s in seconds]}))
"""


def test_the_table_shows_linear_and_quadratic_memory(tmp_path):
    out = tmp_path / "bench.json"
    rows = ["sparc", "filip", "filip, all at once"]
    sizes = ["--patches", 64, "--tokens", 32, "--width", 16, "--batches", 64, 16, 32]
    done = command(
        *["measure/bench", "objectives", "--rows", *rows, *sizes, "--repeats", 1],
        *["--device", "cpu", "--limit-gb", 2, "--out", out],
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    cells = result["cells"]
    assert list(cells) == rows and list(cells["sparc"]) == ["16", "32", "64"]
    peaks = {row: [c and c["peak_mib"] for c in cells[row].values()] for row in rows}
    similarity = 64 * 64 * 64 * 32 * 4 / 2**20  # B x B x P x T in float32: 32 MiB
    assert peaks["filip, all at once"][2] > similarity
    assert peaks["filip, all at once"][2] > 2.5 * peaks["filip, all at once"][1]
    assert peaks["sparc"][2] < similarity
    assert all(c["seconds"] > 0 for c in cells["sparc"].values())
    assert "| filip, all at once |" in done.stdout


def test_a_cell_above_the_memory_limit_is_said_to_be_and_ends_nothing_else(tmp_path):
    out = tmp_path / "bench.json"
    sizes = ["--patches", 64, "--tokens", 32, "--width", 16, "--batches", 64, "--repeats", 1]
    rows = ["--rows", "clip", "gloria, all at once"]
    done = command("measure/bench", "objectives", *rows, *sizes, "--limit-gb", 0.02, "--out", out)
    assert done.returncode == 0, done.stderr
    cells = json.loads(out.read_text())["cells"]
    assert cells["gloria, all at once"]["64"] is None and cells["clip"]["64"]["seconds"] > 0
    assert "| gloria, all at once |" in done.stdout and "> 0.02 GB" in done.stdout


def test_wrong_arguments_end_in_one_line():
    assert "there are" in refusal(call("measure/bench", "objectives", "--rows", "moco"))
    assert "1 or more" in refusal(call("measure/bench", "objectives", "--batches", "0"))
    assert "warmup" in refusal(call("measure/bench", "train", "--steps", "5", "--warmup", "5"))
    assert "1 or more" in refusal(call("measure/bench", "evaluation", "--repeats", "0"))
    assert "sparc.CachedFeaturesHook" in refusal(
        call("measure/bench", "cached", ROOT / "configs" / "camvid" / "seg.py")
    )
    assert "trains nothing" in refusal(
        call("measure/bench", "train", ROOT / "configs/_base_/camvid.py")
    )


def test_a_ratio_is_the_median_over_pairs_and_not_the_ratio_of_medians():
    ratios = tool("measure/ratios")
    turns = []
    seconds = {"A": [1.0, 10.0, 2.0], "B": [2.0, 10.0, 8.0], "A again": [1.0, 11.0, 1.0]}

    def once(name: str, repeat: int) -> dict[str, float]:
        turns.append(name)
        return {"wall": seconds[name][repeat]}

    runs = ratios.interleaved(["A", "B", "A again"], 3, once)
    assert turns == ["A", "B", "A again"] * 3
    assert ratios.paired(runs, "B", "A", "wall") == (2.0, 1.0, 4.0)
    assert ratios.table(runs, {"step": "wall"}, ("B", "A")).splitlines()[-1] == (
        "| step | 2.000 | 8.000 | **2.000** (1.000 to 4.000) | **1.000** (0.500 to 1.100) |"
    )


def test_a_repeat_goes_there_and_back_so_that_no_place_in_it_counts(tmp_path, monkeypatch):
    """A clock in which whatever comes behind the other work takes twice as long."""
    ratios, now, order = tool("measure/ratios"), [0.0], []

    def of(name: str, seconds: float):
        def work() -> None:
            now[0] += seconds * (1 + (order[-1:] not in ([], [name])))
            order.append(name)

        return work

    monkeypatch.setattr(ratios.time, "process_time", lambda: now[0])
    a, b = of("A", 1.0), of("B", 3.0)
    runs = ratios.compare(a, b, "a / b", 2, out=tmp_path / "t.md")
    assert "".join(order[4:]) == "ABAABA" * 2  # 4: warming up, and how long each takes
    assert (
        [run["cpu"] for run in runs["A again"]] == [run["cpu"] for run in runs["A"]] == [1.5, 1.5]
    )
    assert [run["cpu"] for run in runs["B"]] == [6.0, 6.0]
    row = (tmp_path / "t.md").read_text().splitlines()[-1]
    assert row.startswith("| a / b | 2 | 0.250 (0.250 to 0.250) | 1.000 (1.000 to 1.000) | ")
    assert ratios.machine() in row


def test_a_short_work_is_done_several_times_in_a_turn_and_counts_as_one(monkeypatch):
    """A long one beside it is not: 40 steps were made to time one drawing."""
    ratios, now, done = tool("measure/ratios"), [0.0], []

    def work(name: str, seconds: float) -> None:
        now[0] += seconds
        done.append(name)

    monkeypatch.setattr(ratios.time, "process_time", lambda: now[0])
    short, long = ratios.LEAST / 3.5, 2 * ratios.LEAST
    runs = ratios.compare(lambda: work("a", short), lambda: work("b", long), "a / b", 1)
    assert done.count("a") == 2 + 4 * 4 and done.count("b") == 2 + 2
    assert runs["A"][0]["cpu"] == pytest.approx(short)
    assert runs["B"][0]["cpu"] == pytest.approx(long)


def test_a_section_is_written_anew_and_the_others_stay(tmp_path):
    put_section, path = tool("measure/ratios").put_section, tmp_path / "throughput.md"
    for heading, text in (("One", "a"), ("Two", "b"), ("One", "c")):
        put_section(path, heading, text)
    found = path.read_text()
    assert found.startswith("# Throughput\n")
    assert found.endswith("\n\n## One\n\nc\n\n## Two\n\nb\n")


def test_evaluation_compares_programs_that_say_the_same(tmp_path):
    for package in ("pycocotools", "lvis"):
        pytest.importorskip(package)
    out = tmp_path / "throughput.md"
    sizes = ["--images", 30, "--detections", 20, "--repeats", 1]
    done = command("measure/bench", "evaluation", *sizes, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_text().count("| processor |") == 2
    assert "600 invented detections" in done.stdout and "1,800 invented" in done.stdout


def test_evaluation_refuses_to_time_programs_that_differ(monkeypatch):
    tool("measure/bench")  # puts tools/ on the path
    evaluation = tool("measure/evaluation")
    # not forked: a process with threads, as this one, may not be
    cost = {"wall": 1.0, "cpu": 1.0}
    monkeypatch.setattr(evaluation, "timed", lambda work: {"value": work(), **cost})
    args = SimpleNamespace(repeats=1)
    with pytest.raises(ValueError, match="the AP differ"):
        evaluation.against("coco", "pycocotools", lambda truth, rows: 0.5, 10, 5, args)
    monkeypatch.setattr(evaluation, "find_spec", lambda name: None)
    assert "not run, lvis is not installed" in evaluation.against(
        "lvis", "lvis", evaluation.by_lvis_api, 10, 5, args
    )


def test_a_training_is_timed_after_its_warmup_and_its_failure_is_told(tmp_path):
    tool("measure/bench")
    training = tool("measure/training")
    program, config = tmp_path / "train.py", tmp_path / "leaf.py"
    program.write_text(PROGRAM)
    found = training.train_once(program, config, tmp_path / "work", 1)
    assert (found["wall"], found["cpu"]) == (2.0, 1.0) and found["process"] > 0
    program.write_text("raise SystemExit('no such data')")
    with pytest.raises(ValueError, match="no such data"):
        training.train_once(program, config, tmp_path / "again", 1)


def test_the_clock_counts_from_step_to_step(tmp_path):
    clock = tool("measure/step_clock").StepClockHook()
    runner = SimpleNamespace(work_dir=tmp_path)
    clock.before_train(runner)
    for step in range(4):
        clock.after_train_iter(runner, step)
    clock.after_train(runner)
    steps = json.loads(Path(tmp_path, "steps.json").read_text())
    assert {name: len(values) for name, values in steps.items()} == {"wall": 3, "cpu": 3}
    assert min(steps["wall"]) >= 0


def test_the_timed_config_is_the_given_one_without_validation_and_schedule():
    tool("measure/bench")
    cfg = tool("measure/training").leaf(str(ROOT / "configs/quickstart/det.py"), 7, batch=3)
    assert cfg.train_cfg == dict(type="IterBasedTrainLoop", max_iters=7, val_begin=8)
    assert cfg.custom_imports["imports"] == ["transfer", "step_clock"]
    assert cfg.train_dataloader.batch_size == 3 and cfg.param_scheduler is None
    assert cfg.model.bbox_head.num_classes == 12
