"""What tools/test.py and tools/predict.py leave beside numbers, and what they refuse."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.visualization import Visualizer

from tests.commands import call, refusal
from tests.transfer.mm.test_images import bomb
from tests.transfer.small_sets import coco, detector, hasten, quick, write  # noqa: F401
from transfer.run.predictions import draw_tests, dump_tests

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a short training of a detector."""
    folder = tmp_path_factory.mktemp("own")
    write(folder, coco())
    with pytest.MonkeyPatch.context() as patch:
        hasten(patch)
        words = ["--work-dir", folder / "work", "--cfg-options", f"experiment_name={folder.name}"]
        assert call("train", detector(folder), *words) == (0, "")
    return folder / "work"


def test_a_test_draws_every_prediction_and_keeps_them_all(work: Path, tmp_path: Path) -> None:
    Visualizer.get_instance(f"of another run, {tmp_path}")  # the newest of this process
    code, said = call(
        *["test", work / "det.py", work / "iter_2.pth", "--work-dir", tmp_path / "t"],
        *["--show-dir", tmp_path / "drawn", "--out", tmp_path / "found.pkl"],
        *["--wait-time", "0.5", "--cfg-options", f"experiment_name={tmp_path.name}"],
    )
    assert code == 0, said
    assert len([p for p in (tmp_path / "drawn").rglob("*") if p.is_file()]) == 4
    rows = pickle.loads((tmp_path / "found.pkl").read_bytes())
    assert len(rows) == 4 and {"bboxes", "scores", "labels"} <= rows[0]["pred_instances"].keys()


def test_flags_that_cannot_work_are_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [work / "det.py", work / "iter_2.pth", "--work-dir", tmp_path]
    assert "ends in .pkl" in refusal(call("test", *words, "--out", "found.txt"))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--show-dir" in refusal(call("test", *words, "--show"))
    with pytest.raises(ValueError, match="visualization"):
        draw_tests(Config(dict(default_hooks=dict())), False, "d", 2)
    with pytest.raises(ValueError, match="captions"):
        dump_tests(Config(dict(task="captioning")), "x.pkl")


def test_a_segmentors_maps_go_to_a_folder() -> None:
    cfg = Config(
        dict(
            default_scope="mmseg",
            default_hooks=dict(visualization=dict(type="SegVisualizationHook")),
            visualizer=dict(type="SegLocalVisualizer"),
            test_evaluator=dict(type="IoUMetric"),
        )
    )
    dump_tests(draw_tests(cfg, False, "drawn", 2), "maps")
    assert cfg.test_evaluator.output_dir == "maps" and cfg.test_evaluator.keep_results
    assert cfg.default_hooks.visualization.draw and cfg.visualizer.save_dir.endswith("/drawn")


def test_a_photograph_that_cannot_be_read_is_refused_by_name(work: Path, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(70_000))
    (tmp_path / "text.jpg").write_bytes(b"not a photograph")
    for name in ("bomb.png", "text.jpg"):
        words = [work / "det.py", work / "iter_2.pth", tmp_path / name, "--out-dir", tmp_path]
        assert name in refusal(call("predict", *words))
