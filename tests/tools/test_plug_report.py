"""The report over all config folders: counting, the page, a child that takes too long, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.measure import plug_report, plug_table
from transfer import mm


def result(folder: str, status: str, library: str = "mmdet", reason: str = "") -> dict:
    name = f"{library}/{folder}/x.py"
    return dict(
        group=name,
        library=library,
        folder=folder,
        config=name,
        model="RetinaNet",
        status=status,
        reason=reason,
        seconds=1.5,
    )


RESULTS = [
    result("a", "passes"),
    result("a", "not applicable", reason="tracks | objects (mmdet/x.py:3)"),
    result("b", "not applicable"),
    result("c", "passes"),
    result("c", "fails", reason="KeyError: 'x'"),
    result("d", "passes", "mmseg"),
]


def test_a_folder_fails_with_one_config_and_is_excluded_only_with_all() -> None:
    assert plug_table.folders(RESULTS) == {
        ("mmdet", "a"): "passes",
        ("mmdet", "b"): "not applicable",
        ("mmdet", "c"): "fails",
        ("mmseg", "d"): "passes",
    }
    first, second = plug_table.counts(RESULTS)
    assert "3 folders, 2 applicable, 1 pass, 1 fail, 1 not applicable" in first
    assert "5 configs, 3 applicable, 2 pass" in first
    assert "1 folders, 1 applicable, 1 pass, 0 fail, 0 not applicable" in second


def test_the_page_has_a_row_per_config_and_its_bars_do_not_break_the_table() -> None:
    page = plug_table.table(RESULTS)
    rows = [line for line in page.splitlines() if line.startswith(("| mmdet", "| mmseg"))]
    assert len(rows) == len(RESULTS)
    assert r"tracks \| objects (mmdet/x.py:3)" in rows[1]
    assert all(row.replace(r"\|", "").count("|") == 8 for row in rows)


def test_every_folder_of_both_wheels_is_in_the_denominator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # reading all 1,900 configs takes minutes: one kind in each folder, none in some
    monkeypatch.setattr(
        plug_report, "kind_of", lambda path: "part" if "_base_" in path.parts else "RetinaNet"
    )
    groups = plug_report.configs()
    folders = {"/".join(group[0][0].split("/")[:2]) for group in groups}
    assert len(groups) == len(folders)
    assert sum(name.startswith("mmdet/") for name in folders) == 117
    assert sum(name.startswith("mmseg/") for name in folders) == 54


def test_a_config_that_takes_too_long_is_stopped_and_told(tmp_path: Path) -> None:
    name = "mmdet/retinanet/retinanet_r18_fpn_1x_coco.py"
    path = Path(mm.locate("mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"))
    (found,) = plug_report.forked([[(name, path)]], tmp_path, jobs=1, limit=0.0)
    assert (found["status"], found["reason"]) == ("fails", "not done after 0 s")
    assert (found["library"], found["folder"]) == ("mmdet", "retinanet")


def test_results_are_not_overwritten_without_resume(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(RESULTS[0]) + "\n")
    with pytest.raises(FileExistsError, match="--resume"):
        plug_report.main(["--work-dir", str(tmp_path)])
    with pytest.raises(ValueError, match="at least 1"):
        plug_report.main(["--work-dir", str(tmp_path), "--jobs", "0"])


def test_a_finished_report_is_written_again_from_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(RESULTS[0]) + "\n")
    group = [(RESULTS[0]["group"], Path("x.py"))]
    monkeypatch.setattr(plug_report, "configs", lambda: [group])
    monkeypatch.setattr(plug_report, "tiny_run", lambda work_dir: work_dir)
    out = tmp_path / "results" / "plug.md"
    options = ["--work-dir", str(tmp_path), "--resume", "--out", str(out)]
    assert plug_report.main(options) == 0
    assert "| mmdet | a | x.py | RetinaNet | passes |" in out.read_text()
    assert "1 folders, 1 applicable, 1 pass" in capsys.readouterr().out
