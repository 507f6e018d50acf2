"""One wrong number at a time in the code that makes numbers, and the tests that must notice.

python -m tests.mutants [part of a file's name ...]

Prints what lives, what is gone (its old text does not stand once in its file), and the counts. Each
mutant is a line `old ==> new` of one file in mutants.txt, tried in a fork (torch is imported once)
on a copy of the checkout; one with which the tests do not end within `SECONDS` is noticed too.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_suffix(".txt")  # "# file | its tests", then its mutants
SECONDS = 900


def listed(parts: list[str]) -> list[tuple[str, str, str, str]]:
    """(file, old, new, tests) of the files whose names hold one of `parts`; all without any."""
    found, name, tests = [], "", ""
    for line in filter(None, LIST.read_text().splitlines()):
        if line.startswith("# "):
            name, tests = line[2:].split(" | ")
            continue
        old, _, new = line.partition(" ==>")
        if not parts or any(part in name for part in parts):
            found.append((name, old, new.removeprefix(" "), tests))
    return found


def noticed(copy: Path, name: str, old: str, new: str, tests: str) -> bool:
    """Whether the tests fail on the copy with this change, which is taken back."""
    text = (copy / name).read_text()
    (copy / name).write_text(text.replace(old, new))
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.chdir(copy)
        sys.path[:] = [str(copy), *(p for p in sys.path if p not in ("", str(ROOT)))]
        for module in [m for m in sys.modules if m.split(".")[0] in ("tests", "sparc_pretrain")]:
            del sys.modules[module]
        import pytest

        files, _, chosen = tests.partition(" -k ")
        options = ["-k", chosen.strip("'")] if chosen else []
        paths = [f"tests/{file}" for file in files.split()]
        os._exit(int(pytest.main([*paths, *options, "-x", "-p", "no:cacheprovider"])))
    until, ended = time.monotonic() + SECONDS, (0, 0)
    while not ended[0] and time.monotonic() < until:
        time.sleep(0.1)
        ended = os.waitpid(child, os.WNOHANG)
    if not ended[0]:
        os.killpg(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    (copy / name).write_text(text)
    return ended[1] != 0


def main() -> int:
    """Try them."""
    for package in ("mmengine.runner", "pytest", "torch", "torchvision", "transformers"):
        importlib.import_module(package)
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
        for file in filter(None, files.split("\0")):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, copy / file)
        os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1", XDG_CACHE_HOME=place)
        mutants = listed(sys.argv[1:])
        for name, tests in dict.fromkeys((mutant[0], mutant[3]) for mutant in mutants):
            if noticed(copy, name, "", "", tests):
                raise AssertionError(f"{name}: its tests fail without any change")
        lived = 0
        for name, old, new, tests in mutants:
            there = (copy / name).read_text().count(old) == 1
            lives = not there or not noticed(copy, name, old, new, tests)
            lived += lives
            how = ("LIVES" if there else "GONE ") if lives else "dies "
            print(f"{how}  {name}: {old} ==> {new}", flush=True)
    print(f"{len(mutants) - lived} of {len(mutants)} are noticed")
    return int(lived > 0)


if __name__ == "__main__":
    sys.exit(main())
