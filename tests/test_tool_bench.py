"""tools/bench.py: memory is that of the cell, and the all-pairs objectives grow with the square."""

from __future__ import annotations

import json

from tests.commands import call, command, refusal


def test_the_table_shows_linear_and_quadratic_memory(tmp_path):
    out = tmp_path / "bench.json"
    rows = ["sparc", "filip", "filip, all at once"]
    sizes = ["--patches", 64, "--tokens", 32, "--width", 16, "--batches", 64, 16, 32]
    done = command(
        *["bench", "objectives", "--rows", *rows, *sizes, "--repeats", 1],
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
    done = command("bench", "objectives", *rows, *sizes, "--limit-gb", 0.02, "--out", out)
    assert done.returncode == 0, done.stderr
    cells = json.loads(out.read_text())["cells"]
    assert cells["gloria, all at once"]["64"] is None and cells["clip"]["64"]["seconds"] > 0
    assert "| gloria, all at once |" in done.stdout and "> 0.02 GB" in done.stdout


def test_wrong_arguments_end_in_one_line():
    assert "there are" in refusal(call("bench", "objectives", "--rows", "moco"))
    assert "1 or more" in refusal(call("bench", "objectives", "--batches", "0"))
