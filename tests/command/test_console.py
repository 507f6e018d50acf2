"""`sparc NAME` is tools/NAME.py, and says so at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.command.test_flags import TOOLS
from tests.commands import ROOT, tool

LIST = """
import importlib.util, json, sys, time
began = time.process_time()
spec = importlib.util.spec_from_file_location("console", sys.argv[1])
console = importlib.util.module_from_spec(spec)
spec.loader.exec_module(console)
assert console.main(["--help"]) == 0
heavy = {"torch", "numpy", "mmengine", "argparse"} & set(sys.modules)
print(json.dumps([list(console.COMMANDS), sorted(heavy), time.process_time() - began]))
"""


def test_every_tool_is_a_command_and_the_list_is_there_in_half_a_second() -> None:
    door = str(ROOT / "tools" / "__main__.py")
    done = subprocess.run([sys.executable, "-c", LIST, door], capture_output=True, text=True)
    commands, heavy, seconds = json.loads(done.stdout.splitlines()[-1])
    assert sorted(commands) == TOOLS
    assert heavy == [] and seconds < 0.5
    assert all(f"  {name} " in done.stdout for name in commands)


def test_a_checkout_that_is_not_installed_has_the_same_door() -> None:
    done = subprocess.run(
        [sys.executable, "tools", "verify", "assets/sparc-scenes-tiny"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "intact" in done.stdout


def test_the_shell_is_told_commands_flags_and_configs() -> None:
    completed = tool("completion").completed
    assert completed(["pre"]) == ["predict", "pretrain", "pretrain_lm"]
    assert set(completed([""])) == set(TOOLS)
    assert {"--resume", "--objective", "--cfg-options"} <= set(completed(["pretrain", "--"]))
    assert completed(["pretrain", "--obj"]) == ["--objective"]
    assert "--objective" not in completed(["train", "--"])
    found = completed(["pretrain", "sparc_pretrain::quickstart/scenes_t"])
    assert found == ["sparc_pretrain::quickstart/scenes_tiny.py"]
    assert completed(["pretrain", "data/"]) == []  # the shell's own files
    assert completed(["nothing", "--"]) == []


def test_the_script_of_bash_completes_in_bash(tmp_path) -> None:
    (tmp_path / "sparc").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tools"} "$@"\n')
    (tmp_path / "sparc").chmod(0o755)
    ask = (
        "source <(sparc completion bash); COMP_WORDS=(sparc pretrain --obj); COMP_CWORD=2; _sparc; "
        'echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", ask], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout.strip() == "--objective", done.stderr
