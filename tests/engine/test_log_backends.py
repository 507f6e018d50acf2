"""A log backend that is missing or down is said once, and training goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend, Visualizer
from mmengine.visualization.vis_backend import BaseVisBackend

sys.path.insert(0, str(Path(__file__).parent))
import toy_run

from sparc_pretrain.engine import log_backends, mmengine_patches


@VISBACKENDS.register_module(force=True)
class Down(BaseVisBackend):
    """A server that does not answer, from its `first` call to its `last` one."""

    def __init__(self, save_dir: str, first: int = 1, last: int = 10**9) -> None:
        super().__init__(save_dir)
        self.first, self.last, self.calls, self.written = first, last, 0, 0

    @property
    def experiment(self) -> None:
        return None

    def _init_env(self) -> None: ...

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None) -> None:
        self.calls += 1
        if self.first <= self.calls <= self.last:
            raise ConnectionError("no route\nto host")
        self.written += 1


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(log_backends, "print_log", lambda text, *rest: lines.append(text))
    return lines


def visualizer(folder: Path, *backends: dict) -> Visualizer:
    mmengine_patches.install()
    return Visualizer(vis_backends=list(backends), save_dir=str(folder))


def test_a_dead_backend_is_said_once_and_left_alone_after_three_failures(
    tmp_path: Path, said: list[str]
) -> None:
    made = visualizer(tmp_path, dict(type="Down"), dict(type="LocalVisBackend"))
    for step in range(6):
        made.add_scalars({"loss": 1.0}, step=step)
    made.close()
    assert said == ["Down fails, training goes on without it: no route to host"]
    assert made.get_backend("Down").calls == log_backends.PATIENCE
    local = made.get_backend("LocalVisBackend")
    assert isinstance(local, LocalVisBackend)
    lines = Path(local._scalar_save_file).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(6))


def test_a_backend_that_recovers_goes_on(tmp_path: Path, said: list[str]) -> None:
    made = visualizer(tmp_path, dict(type="Down", first=2, last=3))
    for step in range(6):
        made.add_scalars({"loss": 1.0}, step=step)
    assert made.get_backend("Down").written == 4 and len(said) == 1


@pytest.mark.parametrize(
    ("kind", "package"), [("WandbVisBackend", "wandb"), ("MLflowVisBackend", "mlflow")]
)
def test_a_missing_package_is_said_with_the_command_that_installs_it(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, kind: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # import raises ImportError
    made = visualizer(tmp_path, dict(type=kind))
    for step in range(3):
        made.add_scalars({"loss": 1.0}, step=step)
    made.close()
    assert len(said) == 1 and kind in said[0] and f"pip install {package}" in said[0]


def test_a_run_whose_backend_is_down_from_the_start_ends_well(tmp_path: Path) -> None:
    runner = toy_run.train(tmp_path, steps=5, backends=[dict(type="Down")])
    assert runner.iter == 5 and runner.visualizer.get_backend("Down").calls == 3
