"""The notebooks run from their first cell to their last, on the model that ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
# As a kernel does it: cell after cell in one namespace, the value of a last expression is shown.
RUN = """
import ast, json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
space, shown = {"__name__": "__main__"}, []
for number, cell in enumerate(c for c in cells if c["cell_type"] == "code"):
    body = ast.parse("".join(cell["source"])).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), f"cell {number}", "exec"), space)
    if last is not None:
        code = compile(ast.Expression(last.value), f"cell {number}", "eval")
        shown.append(type(eval(code, space)))
print("SHOWN", [kind.__name__ for kind in shown])
print("ENDED", eval(sys.argv[2], space))
"""
ENDS = {
    "words_on_patches": "[len(trained.own), all(box for _, box in boxes), "
    "ranked[0][0] == photos[0]]",
    "backbone_into_a_detector": "[len(changes) > 3, 0 <= record['metrics']['coco/bbox_AP'] < 1, "
    "record['backbone']['run'].endswith('sparc-scenes-tiny')]",
}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_is_whole_and_carries_no_outputs(file: Path) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and content["cells"][0]["cell_type"] == "markdown"
    for cell in content["cells"]:
        assert cell["cell_type"] == "markdown" or not (cell["outputs"] or cell["execution_count"])


@pytest.mark.parametrize("name", ENDS)
def test_a_notebook_runs_to_its_end(name: str, tmp_path: Path) -> None:
    file = ROOT / "docs/notebooks" / f"{name}.ipynb"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(file), ENDS[name]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shown, ended = (line.partition(" ")[2] for line in done.stdout.splitlines()[-2:])
    if name == "words_on_patches":
        assert ended == "[9, True, True]" and shown.count("Image") == 4
        assert (tmp_path / "words.html").stat().st_size > 10_000
    else:
        assert ended == "[True, True, True]" and "Image" in shown
    assert set(ENDS) == {file.stem for file in NOTEBOOKS}
