"""`sparc NAME` is tools/NAME.py, and says so at once."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.command.test_flags import TOOLS
from tests.commands import ROOT

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
