"""A person's own boxes: what is evaluated, and what is refused before the first step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import call, refusal
from tests.transfer.small_sets import coco, detector, quick, write  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick")


def trained(folder: Path, extra: str = "") -> tuple[int, str]:
    name = f"experiment_name={folder.name}-{abs(hash(extra))}"
    work = folder / f"work{len(list(folder.glob('work*')))}"
    config = detector(folder, extra)
    return call("train", config, "--work-dir", work, "--cfg-options", name)


def record(folder: Path) -> dict:
    (work,) = folder.glob("work*")
    return json.loads((work / "metrics.json").read_text())


def validated_by(folder: Path, contents: dict) -> str:
    """The line with which training refuses `contents` as validation set."""
    write(folder, coco())
    write(folder, contents, "val.json")
    extra = f"""
val_dataloader = dict(dataset=dict(ann_file="val.json"))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={str(folder / "val.json")!r})
"""
    said = refusal(trained(folder, extra))
    assert not list(folder.glob("work*/*.pth")), "before the first step"
    assert "val.json" in said
    return said


def test_images_named_by_texts_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    contents = coco()
    for row in contents["images"]:
        row["id"] = row["file_name"]
    for row in contents["annotations"]:
        row["image_id"] = f"{row['image_id'] - 1}.png"
    write(tmp_path, contents)
    keep = f"val_evaluator = dict(outfile_prefix={str(tmp_path / 'found')!r})"
    assert trained(tmp_path, keep) == (0, "")
    assert 0 <= record(tmp_path)["metrics"]["coco/bbox_AP"] <= 1
    rows = json.loads((tmp_path / "found.bbox.json").read_text())
    assert {row["image_id"] for row in rows} == {f"{i}.png" for i in range(4)}


def test_some_of_a_files_classes_are_trained_on_and_judged_alone(tmp_path: Path) -> None:
    write(tmp_path, coco(classes=("star", "house", "car")))
    assert trained(tmp_path) == (0, "")  # star and house of three
    assert record(tmp_path)["metrics"]["coco/bbox_AP"] >= 0


def test_a_misspelt_class_of_the_validation_set_is_refused_at_the_start(tmp_path: Path) -> None:
    said = validated_by(tmp_path, coco(classes=("star", "huose")))
    assert "['house']" in said and "did you mean 'huose'" in said


def test_a_name_of_two_categories_is_refused_at_the_start(tmp_path: Path) -> None:
    contents = coco()
    contents["categories"].append({"id": 9, "name": "star"})
    said = validated_by(tmp_path, contents)
    assert "'star' is used by two categories (ids 3 and 9)" in said
    contents["categories"].insert(0, {"id": 0, "name": "house"})  # Roboflow's root category
    (other := tmp_path / "root").mkdir()
    assert "'house' is used by two categories (ids 0 and 4)" in validated_by(other, contents)


def test_annotations_of_unlisted_images_count_nowhere_and_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = coco()
    del contents["images"][-1]
    write(tmp_path, contents)
    assert trained(tmp_path)[0] == 0
    (log,) = tmp_path.glob("work*/2*/*.log")
    assert "2 of 8 annotations" in log.read_text() and "count nowhere" in log.read_text()


def test_an_image_id_spelt_as_another_type_is_refused_at_the_start(tmp_path: Path) -> None:
    contents = coco()
    contents["annotations"][-1]["image_id"] = "4"
    assert "is '4', listed is 4" in validated_by(tmp_path, contents)


def test_boxes_without_an_area_are_refused_at_the_start(tmp_path: Path) -> None:
    contents = coco()
    del contents["annotations"][0]["area"]
    write(tmp_path, coco())
    assert "area" in validated_by(tmp_path, contents)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_photograph_ends_training_in_one_line_with_its_name(
    workers: int, tmp_path: Path
) -> None:
    write(tmp_path, coco())
    path = tmp_path / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:900])
    extra = f"train_dataloader = dict(num_workers={workers})"
    said = refusal(trained(tmp_path, extra))
    assert "2.png: png " in said and len(said) < 300
