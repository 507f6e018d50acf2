"""The built wheel: everything that a command reads is in it, and the commands run from it alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import ROOT

PARTS = ("sparc_pretrain", "transfer", "tools", "configs", "assets")
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in a copy: nothing is left beside the source."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("this environment has no setuptools")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in PARTS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=source, check=True, capture_output=True
    )
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as pip would unpack it."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


def sparc(site: Path, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """`sparc ARGV` of the unpacked wheel, outside the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    start = "import sys; from sparc_tools.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", start, *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_the_wheel_holds_configs_model_templates_and_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        told = next(n for n in names if n.endswith("entry_points.txt"))
        assert "sparc = sparc_tools.__main__:main" in file.read(told).decode()
        card = file.read(told.replace("entry_points.txt", "METADATA")).decode()
    mim = "sparc_pretrain/.mim/"
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.py")}
    here |= {
        f"assets/sparc-scenes-tiny/{p.name}" for p in (ROOT / "assets/sparc-scenes-tiny").iterdir()
    }
    assert {mim + name for name in here} | {mim + "constraints.txt"} <= names
    templates = {
        p.relative_to(ROOT).as_posix()
        for suffix in ("html", "css", "js")
        for p in (ROOT / "sparc_pretrain").rglob(f"*.{suffix}")
    }
    assert templates and templates <= names
    assert {"sparc_pretrain/py.typed", "transfer/py.typed"} <= names
    assert {f"sparc_tools/{p.name}" for p in (ROOT / "tools").glob("*.py")} <= names
    assert not any(n.startswith(("tests/", "docs/", "build/")) or "__pycache__" in n for n in names)
    assert "Classifier: Typing :: Typed" in card and "Project-URL: Paper" in card


def test_the_command_runs_from_the_wheel_alone(site: Path, tmp_path: Path) -> None:
    made = sparc(site, tmp_path, "data", "scenes", "--out", "d", "--train", "10", "--val", "1",
                 "--size", "64", "--level", "easy")  # fmt: skip
    assert made.returncode == 0, made.stderr
    photo = "d/images/val/500000.jpg"
    drawn = sparc(
        site, tmp_path, "align", "sparc-scenes-tiny", photo, "a red star", "--out", "w.png"
    )
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "w.png").stat().st_size > 1000
    few = ["data.sources=d/shards/train-*.tar", "data.global_batch=10", "schedule.steps=2"]
    trained = sparc(site, tmp_path, "pretrain", "sparc_pretrain::quickstart/scenes_tiny.py",
                    "--cfg-options", *few, "schedule.warmup=1")  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "work_dirs/scenes_tiny/run/manifest.json").is_file()


def test_a_config_of_ours_is_a_base_anywhere_and_gets_no_scope(site: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("_base_ = 'sparc_pretrain::det/sparc_coco.py'\nmark = 1\n")
    read = (
        "from sparc_pretrain.command.cli import read_config as r; a = r('mine.py', False); "
        "b = r('sparc_pretrain::det/sparc_coco.py', False); assert a.pop('mark') == 1; "
        "assert a.to_dict() == b.to_dict() and 'SparcViT' in a.pretty_text; print(b.filename)"
    )
    done = subprocess.run(
        [sys.executable, "-c", read],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert ".mim/configs/det/sparc_coco.py" in done.stdout


def test_mmdets_own_train_py_reads_and_trains_a_config_on_one_of_ours(
    site: Path, tmp_path: Path
) -> None:
    from sparc_pretrain.data.scenes import write_scenes

    write_scenes(tmp_path / "data/quickstart", 4, 1, 64, level="easy")
    (tmp_path / "mine.py").write_text(
        "_base_ = 'sparc_pretrain::quickstart/det.py'\n"
        "train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n"
        "train_cfg = dict(max_iters=1, val_interval=9)\n"
        "default_hooks = dict(logger=dict(interval=1))\n"
    )
    tool = Path(importlib.util.find_spec("mmdet").origin).parent / ".mim/tools/train.py"
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    assert not list(site.glob("*.pth"))  # only who asks for it gets a line that Python runs
    added = [sys.executable, "-m", "sparc_pretrain.startup", str(site)]
    told = subprocess.run(added, env=env, capture_output=True, text=True, check=True).stdout
    (line,) = site.glob("*.pth")
    assert str(line) in told
    # as a Python whose site-packages this folder is
    run = "import runpy, site, sys; site.addsitedir(sys.argv.pop(1)); runpy.run_path(sys.argv.pop("
    run += "1), run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", run, str(site), str(tool), "mine.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "work_dirs/mine/iter_1.pth").is_file()
    assert "SparcViT" in (tmp_path / "work_dirs/mine/mine.py").read_text()


def test_help_and_messages_speak_of_the_command_that_was_typed(site: Path, tmp_path: Path) -> None:
    told = sparc(site, tmp_path, "pretrain", "--help").stdout
    assert told.startswith("usage: sparc pretrain")
    assert "sparc pretrain sparc_pretrain::quickstart/sparc.py" in told
    assert "-m sparc_tools pretrain sparc_pretrain::sparc.py" in told and "tools/" not in told
    refused = sparc(site, tmp_path, "pretrain", "sparc_pretrain::sprc.py")
    assert refused.returncode == 2 and "did you mean sparc_pretrain::sparc.py?" in refused.stderr
    wrong = sparc(site, tmp_path, "pretrian")
    assert wrong.returncode == 2 and "did you mean 'pretrain'?" in wrong.stderr
