"""Imports go down only: the floors of CONTRIBUTING.md, read from the source."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "sparc_pretrain": 0,  # the package itself: its version
    "sparc_pretrain.types": 0,
    "sparc_pretrain.shipped": 0,
    "sparc_pretrain.startup": 0,
    "sparc_pretrain.model_card": 0,
    "sparc_pretrain.hub_run": 1,
    "sparc_pretrain.remote_run": 1,
    "sparc_pretrain.config_tree": 0,
    "sparc_pretrain.metric": 0,
    "sparc_pretrain.registry": 0,
    "sparc_pretrain.distributed": 0,
    "sparc_pretrain.heartbeat": 0,
    "sparc_pretrain.chance": 0,
    "sparc_pretrain.step_before": 0,
    "sparc_pretrain.data": 1,
    "sparc_pretrain.data.dataset": 2,
    "sparc_pretrain.towers": 1,
    "sparc_pretrain.run_config": 0,
    "sparc_pretrain.json_file": 0,
    "sparc_pretrain.run_folder": 1,
    "sparc_pretrain.blueprint": 1,
    "sparc_pretrain.atomic_file": 0,
    "sparc_pretrain.dual_encoder": 2,
    "sparc_pretrain.objectives": 2,
    "sparc_pretrain.pretraining": 3,
    "sparc_pretrain.metrics_file": 3,
    "sparc_pretrain.command": 3,
    "sparc_pretrain.report": 3,
    "sparc_pretrain.page": 3,
    "sparc_pretrain.zeroshot": 3,
    "sparc_pretrain.convert": 3,
    "sparc_pretrain.engine": 3,
    "sparc_pretrain.study": 3,
    "transfer": 4,
    "tools": 5,
}
# Modules of one floor that may use each other: files of one folder, and dataset's parts.
MM = ("mmcv", "mmdet", "mmseg")


def modules() -> list[Path]:
    return [
        p for top in ("sparc_pretrain", "transfer", "tools") for p in (ROOT / top).rglob("*.py")
    ]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int | None:
    """The floor of the longest known prefix, None for outside libraries."""
    while module:
        if module in FLOORS:
            return FLOORS[module]
        module = module.rpartition(".")[0]
    return None


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down_only(path):
    module, floor = name_of(path), floor_of(name_of(path))
    assert floor is not None, f"{module} has no floor: add it to FLOORS"
    for imported in imports_of(path):
        top = imported.split(".")[0]
        assert top != "tools", f"{module} imports {imported}: nothing imports tools"
        if floor < 4:
            assert top not in MM, f"{module} imports {imported}"
        other = floor_of(imported)
        assert other is None or other <= floor, f"{module} (floor {floor}) imports {imported}"
        if floor == 4:
            for upper in ("sparc_pretrain.objectives", "sparc_pretrain.pretraining.pretrainer"):
                assert not imported.startswith(upper), f"{module} imports {imported}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "sparc_pretrain/objectives").glob("*.py")), ids=name_of
)
def test_an_objective_imports_only_what_objectives_may(path):
    # the contract, and the terms of several objectives
    shared = (
        "alignment",
        "base",
        "boxes",
        "chunked",
        "concepts",
        "contrastive",
        "grouping",
        "masked",
        "masking",
        "matching",
        "mosaic",
        "regions",
        "single_stream",
        "tags",
        "terms",
        "transport",
    )
    allowed = ("types", "distributed", "registry", "chance", "towers.fusion", "towers.regions")
    allowed += tuple(f"objectives.{name}" for name in shared)
    for imported in imports_of(path):
        if imported.startswith("sparc_pretrain.") and path.name != "__init__.py":
            inner = imported.removeprefix("sparc_pretrain.")
            assert inner.startswith(allowed) or inner == "objectives", imported


def test_no_directory_of_the_packages_is_missed_by_the_installer():
    for top in ("sparc_pretrain", "transfer"):
        for folder in {p.parent for p in (ROOT / top).rglob("*.py")}:
            assert (folder / "__init__.py").exists(), folder


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_file_has_one_reason_to_exist_and_room_for_it(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_transfer_has_few_rooms():
    marks = {"__pycache__", "py.typed"}
    assert len([p for p in (ROOT / "transfer").iterdir() if p.name not in marks]) <= 9


VERBS = {"to", "from", "load"}  # of convert


def test_a_family_of_files_is_a_folder():
    """Three files of one folder that share the word before an underscore were meant as a folder."""
    for folder in {p.parent for p in modules()}:
        words = Counter(p.stem.partition("_")[0] for p in folder.glob("*_*.py") if p.stem[0] != "_")
        families = {word for word, count in words.items() if count > 2 and word not in VERBS}
        assert not families, f"{folder}: {', '.join(f'{word}_*' for word in sorted(families))}"


def test_nobody_asks_an_objective_what_it_has():
    """`objectives.base.Objective` has a default for all of its contract."""
    asked = re.compile(r"(?:hasattr|getattr)\((?:self\.|model\.)?objective,")
    found = [p for p in modules() if asked.search(p.read_text(encoding="utf-8"))]
    assert not found
