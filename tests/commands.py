"""Tools as the tests call them: behind their door, in this process or as a command of its own."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from sparc_pretrain.command import cli

ROOT = Path(__file__).parents[1]


@functools.cache
def tool(name: str) -> ModuleType:
    """The module ``tools/NAME.py``."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def through_the_door(main: Callable[[], int | None]) -> tuple[int, str]:
    """Exit code and standard error of a tool's `main`, as its command would end."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            cli.guard(main)
        except SystemExit as end:
            return end.code, said.getvalue()


def call(name: str, *argv: str) -> tuple[int, str]:
    """Exit code and standard error of ``tools/NAME.py ARGV``, run in this process."""
    return through_the_door(lambda: tool(name).main([str(word) for word in argv]))


def command(name: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python tools/NAME.py ARGV`` as a process of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def refusal(outcome: tuple[int, str]) -> str:
    """The one line with which a tool refuses, after checking that it is one."""
    code, said = outcome
    lines = said.strip().splitlines()
    assert code == 2, said
    assert len(lines) == 1 and lines[0].startswith("error: "), said
    return lines[0]
