"""A command line is read at once: no tool imports torch or mm before it knows what is asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparc_pretrain.command import flags
from tests.commands import ROOT

NO_TOOLS = ("__init__", "__main__", "doctor_checks")
TOOLS = sorted(path.stem for path in (ROOT / "tools").glob("*.py") if path.stem not in NO_TOOLS)
# Asks every tool for its help, one after the other in a process that has imported nothing.
ASK = """
import contextlib, importlib.util, io, json, sys, time
HEAVY = {"torch", "torchvision", "mmengine", "mmcv", "transformers", "timm", "numpy", "PIL"}
answers = {}
for path in sys.argv[1:]:
    began, before, said = time.process_time(), set(sys.modules), io.StringIO()
    spec = importlib.util.spec_from_file_location("tool", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        module.main(["--help"])
    heavy = sorted(HEAVY & (set(sys.modules) - before))
    answers[path] = [said.getvalue()[:6], heavy, time.process_time() - began]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, list]:
    """Tool -> [how its help begins, heavy modules it imported, seconds of CPU]."""
    paths = [str(ROOT / "tools" / f"{name}.py") for name in TOOLS]
    done = subprocess.run(
        [sys.executable, "-c", ASK, *paths], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return {Path(path).stem: answer for path, answer in json.loads(done.stdout).items()}


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_given_without_importing_anything_heavy(tool: str, answers: dict) -> None:
    begin, heavy, seconds = answers[tool]
    assert begin == "usage:" and heavy == [] and seconds < 0.5


def test_key_value_pairs_are_those_of_mmengine_in_one_flag_or_in_two() -> None:
    parser = flags.parser("x")
    flags.cfg_options(parser)
    words = ["--cfg-options", "a.b=1", "c=[1,(2,3)]", "d=x", "--cfg-options", "e=None"]
    found = parser.parse_args(words).cfg_options
    assert found == {"a.b": 1, "c": [1, (2, 3)], "d": "x", "e": None}
    assert parser.parse_args([]).cfg_options is None


def test_a_dict_as_a_value_is_refused_in_one_line(capsys: pytest.CaptureFixture) -> None:
    parser = flags.parser("x")
    flags.cfg_options(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--cfg-options", "a=dict(b='c',d=1)"])
    assert "of a dict, give the parts" in capsys.readouterr().err


def test_a_shared_flag_is_declared_once() -> None:
    flag = re.compile(r'add_argument\(\s*"(--[\w-]+)"')
    shared = set(flag.findall((ROOT / "sparc_pretrain" / "command" / "flags.py").read_text()))
    assert {"--work-dir", "--cfg-options", "--launcher", "--resume"} <= shared
    own = {  # the same word for something else
        ("convert", "--force"),
        ("data", "--force"),
        ("pretrain_lm", "--resume"),
        ("study", "--resume"),
    }
    for tool in TOOLS:
        for name in flag.findall((ROOT / "tools" / f"{tool}.py").read_text()):
            assert name not in shared or (tool, name) in own, f"tools/{tool}.py declares {name}"
