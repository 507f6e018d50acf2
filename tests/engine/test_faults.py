"""docs/faults.md: every fault has tests, every test it names is there, runs, and can fail."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from tests.commands import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text()
LINES = [line for line in PAGE.splitlines() if re.match(r"\| *\d", line)]
ROWS = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", PAGE, re.M)


@cache
def functions_of(file: str) -> dict[str, ast.FunctionDef]:
    """The test functions of a file by name, read and not imported."""
    tree = ast.parse((ROOT / "tests" / file).read_text())
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in found]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"{file} has two of {twice}: the first never runs"
    return {node.name: node for node in found if node.name.startswith("test_")}


def can_fail(test: ast.FunctionDef) -> bool:
    """Whether it asserts, or expects an error."""
    parts = [node for node in ast.walk(test) if isinstance(node, (ast.Assert, ast.Call))]
    return any(
        isinstance(part, ast.Assert) or re.search(r"raises|refusal|assert", ast.unparse(part.func))
        for part in parts
    )


def test_the_faults_are_numbered_without_a_gap() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, len(LINES) + 1))


@pytest.mark.parametrize(("number", "cell"), ROWS, ids=[number for number, _ in ROWS])
def test_a_fault_is_provoked_by_tests_that_are_there_and_can_fail(number: str, cell: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", cell)
    assert named and re.sub(r"`[^`]*`|<br>", "", cell) == "" and cell.count("`") == 2 * len(named)
    for file, name in named:
        test = functions_of(file).get(name)
        assert test is not None, f"{file} has no {name}"
        marks = [ast.unparse(mark) for mark in test.decorator_list]
        assert not any(re.search(r"mark\.(skip\b|xfail)", mark) for mark in marks), name
        assert can_fail(test), f"{file}::{name} asserts nothing"
