"""docs/faults.md: every fault has tests, and every test it names exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.commands import ROOT

ROWS = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", (ROOT / "docs" / "faults.md").read_text(), re.M)


def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_faults_are_numbered_without_a_gap() -> None:
    assert [int(number) for number, _ in ROWS] == list(range(1, 88))


@pytest.mark.parametrize(("number", "cell"), ROWS, ids=[number for number, _ in ROWS])
def test_a_fault_is_provoked_by_tests_that_exist(number: str, cell: str) -> None:
    named = re.findall(r"`([^`]+)::(test_\w+)`", cell)
    assert named
    for file, name in named:
        assert name in names_in(file), f"{file} has no {name}"
