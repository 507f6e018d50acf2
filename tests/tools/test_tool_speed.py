"""tools/measure/speed.py and gpu.py: every row runs in small and says ratio, spread and control."""

from __future__ import annotations

import re
import sys
import time

import pytest

from tests.commands import ROOT, call, refusal, tool

sys.path.append(str(ROOT / "tools" / "measure"))
SMALL = ["--repeats", "2", "--batch", "8", "--depth", "1", "--size", "32", "--tokens", "8"]
SMALL += ["--patches", "9", "--width", "16", "--members", "60", "--gigabytes", "0.002"]
SMALL += ["--batches", "2", "--latency", "5"]
RATIO = r"A / B ([\d.]+) \(([\d.]+) to ([\d.]+)\); A again / A ([\d.]+) \(([\d.]+) to ([\d.]+)\)"


ROWS = ["step", "accumulate", "loss", "filip", "index", "checkpoint", "remote"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """The row `remote` sets these."""
    for name in ("XDG_CACHE_HOME", "NO_PROXY"):
        monkeypatch.setenv(name, "")


ROWS += [f"fused --objective {name}" for name in ("xvlm", "xvlm_boxes", "uniter", "kaleido")]
ROWS += ["draws --objective oscar"]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_says_ratio_spread_and_control(row, capsys):
    code, said = call("measure/speed", *row.split(), *SMALL)
    assert code == 0, said
    told = capsys.readouterr().out
    found = re.search(RATIO, told)
    assert found, told
    middle, least, most, control, *_ = map(float, found.groups())
    assert least <= middle <= most
    assert ("VOID" in told) == (abs(control - 1) > 0.03) or abs(abs(control - 1) - 0.03) < 1e-3


def test_an_objective_of_the_wrong_row_is_refused():
    for row, name in (("step", "xvlm"), ("fused", "siglip")):
        code, said = call("measure/speed", row, "--objective", name, *SMALL)
        assert code == 2 and name in said


def test_a_background_save_is_timed_without_the_thread_s_own_work(capsys, monkeypatch):
    speed = tool("measure/speed")
    monkeypatch.setattr(speed.checkpoint, "save", lambda state, path: speed.time.sleep(0.2))
    args = speed.parse(["checkpoint", "--gigabytes", "0.001"])
    background, at_once, _ = speed.saving(args)
    assert background()[0] < 0.1 and at_once()[0] >= 0.2


def test_a_server_that_is_slow_shows_in_the_rate_by_the_clock():
    speed = tool("measure/speed")
    args = speed.parse(["remote", *SMALL, "--latency", "300"])
    near, far, named = speed.remote(args)
    far()  # tars are looked at
    took = []
    for work in (near, far):
        started = time.perf_counter()
        work()
        took.append(time.perf_counter() - started)
    assert took[1] - took[0] > 0.2 and "300 ms" in named  # the first batch is waited for


def test_a_row_is_put_into_the_table_and_replaced_there(tmp_path):
    out = tmp_path / "table.md"
    for row in ("loss", "filip", "loss"):
        assert call("measure/speed", row, *SMALL, "--out", out)[0] == 0
    rows = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert len(rows) == 3 and rows[0].startswith("| A / B |")
    for row, named in zip(
        rows[1:], ("loss of FILIP / of sparc,", "fine-grained loss"), strict=True
    ):
        assert row.startswith(f"| {named}")


def test_unknown_rows_and_sizes_are_refused():
    assert "1 or more" in refusal(call("measure/speed", "step", "--repeats", "0"))
    assert "1 or more" in refusal(call("measure/gpu", "--steps", "0"))


def test_the_table_for_a_gpu_is_made_on_a_cpu_in_small(tmp_path, capsys):
    out = tmp_path / "gpu.md"
    code, said = call("measure/gpu", "--no-tests", "--steps", "2", "--out", out)
    assert code == 0, said
    text = out.read_text()
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| ") and "/16" in row]
    assert len(rows) == 7 and "no GPU" in text
    for row in rows:
        assert float(row[1]) > 0 and float(row[2].replace(",", "")) > 0 and float(row[3]) > 0
        assert float(row[6].strip(" |")) == 0.0  # on a CPU the bits agree


def test_cells_without_time_are_left_out_and_said_to_be(tmp_path):
    out = tmp_path / "gpu.md"
    assert call("measure/gpu", "--no-tests", "--minutes", "0.00001", "--out", out)[0] == 0
    assert out.read_text().count("no time left") >= 4
