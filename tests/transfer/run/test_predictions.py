"""What tools/test.py and tools/predict.py leave beside numbers, and what they refuse."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, PixelData
from mmengine.visualization import Visualizer
from PIL import Image
from safetensors.torch import save_file

from sparc_pretrain.engine import checkpoint
from tests.commands import call, refusal
from tests.transfer.mm.test_images import bomb
from tests.transfer.small_sets import coco, detector, hasten, quick, write  # noqa: F401
from transfer.detection.metrics import evaluate
from transfer.run.photos import photos
from transfer.run.prediction_files import CocoResults, label_map
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


def predicted(
    work: Path, folder: Path, *words: object, weights: str | Path = "iter_2.pth"
) -> tuple[tuple[int, str], list[dict]]:
    """What predict.py says and writes of the training's photographs, ids from its own file."""
    truth = work.parent / "boxes.json"
    argv = [work / "det.py", work / weights, *words, "--out-dir", folder]
    said = call("predict", *argv, "--json", "--annotations", truth, "--no-pictures")
    return said, json.loads((folder / "predictions.json").read_text())


def test_a_folder_becomes_coco_results_whatever_the_batch(work: Path, tmp_path: Path) -> None:
    photos = work.parent / "images"
    one, rows = predicted(work, tmp_path / "one", photos)
    three, others = predicted(work, tmp_path / "three", f"{photos}/*.png", "--batch-size", 3)
    assert one == three == (0, "") and len(rows) == len(others) == 20  # max_per_img=5
    assert {row["category_id"] for row in rows} <= {3, 4}
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    for row, other in zip(rows, others, strict=True):
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)
        assert row["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
    listed = json.loads((tmp_path / "one" / "predictions_images.json").read_text())
    assert [row["file_name"] for row in listed["images"]] == [f"{photos}/{i}.png" for i in range(4)]
    assert evaluate(work.parent / "boxes.json", rows)["AP"] >= 0
    assert [p.name for p in (tmp_path / "one").iterdir() if p.suffix != ".json"] == []


def test_weights_in_safetensors_predict_what_their_checkpoint_does(work, tmp_path) -> None:
    """The way out that a refused checkpoint is told."""
    photos, file = work.parent / "images", tmp_path / "weights.safetensors"
    save_file(checkpoint.weights(work / "iter_2.pth"), file)
    wanted = predicted(work, tmp_path / "pth", photos)
    assert predicted(work, tmp_path / "safetensors", photos, weights=file) == wanted


def test_one_bad_photograph_of_many_is_told_and_the_others_are_predicted(
    work: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"not a photograph")
    photos = work.parent / "images"
    (code, said), rows = predicted(work, tmp_path / "out", tmp_path / "bad.jpg", photos)
    assert code == 1 and "bad.jpg" in said and len(rows) == 20


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("frame10.jpg", "frame9.jpg", "sub/frame1.PNG", ".hidden/x.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [photo.name for photo in photos([str(tmp_path)])]
    assert found == ["frame9", "frame10", "sub/frame1"]
    again = photos([str(tmp_path / "frame9.jpg"), str(tmp_path / "*.jpg")])
    assert [photo.name for photo in again] == ["frame9", "frame9-2", "frame10"]
    with pytest.raises(FileNotFoundError, match="no photograph matches"):
        photos([str(tmp_path / "*.bmp")])
    with pytest.raises(FileNotFoundError, match="no file"):
        photos([str(tmp_path / "typo.jpg")])


def test_a_segmentors_classes_become_a_png(tmp_path: Path) -> None:
    labels = torch.arange(6).reshape(1, 2, 3)
    sample = BaseDataElement(pred_sem_seg=PixelData(data=labels))
    label_map(sample, tmp_path / "a" / "x.png")
    with Image.open(tmp_path / "a" / "x.png") as image:
        assert image.mode == "L" and np.array_equal(np.asarray(image), labels[0])
    with pytest.raises(ValueError, match="--json"):
        label_map(BaseDataElement(), tmp_path / "y.png")
    with pytest.raises(ValueError, match="--maps"):
        CocoResults(tmp_path, ["a"]).add(Path("x.jpg"), sample)
