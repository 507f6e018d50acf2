"""Where a person's files are found, and what is asked where a folder does not say it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.transfer.small_sets import coco
from transfer.run.own_data import folders
from transfer.run.own_data.schedule import passes_of

LAYOUTS = {
    "flat": ("train.json", "val.json", "images", "images"),
    "coco": ("annotations/instances_train2017.json", "annotations/instances_val2017.json",
             "train2017", "val2017"),
    "roboflow": ("train/_annotations.coco.json", "valid/_annotations.coco.json", "train", "valid"),
    "split folders": ("a_train.json", "a_val.json", "images/train", "images/val"),
}  # fmt: skip


def pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (8, 6)).save(folder / name)


def lay(root: Path, layout: str) -> None:
    """Boxes in one of `LAYOUTS`, with captions beside them, which are no boxes."""
    *files, train, val = LAYOUTS[layout]
    for file, place in zip(files, (train, val), strict=True):
        contents = coco(3, ("star", "house", "ghost"))
        contents["annotations"] = [r for r in contents["annotations"] if r["category_id"] != 5]
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(json.dumps(contents))
        pictures(root / place, [row["file_name"] for row in contents["images"]])
    texts = {"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a star"}]}
    for name in ("captions_train.json", "captions_val.json"):
        (root / name).write_text(json.dumps(texts))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_photographs_and_classes_are_found(layout: str, tmp_path: Path) -> None:
    lay(tmp_path, layout)
    found = folders.boxes(tmp_path, {})
    train, val = found["train"], found["val"]
    assert (train.annotations, val.annotations, train.images, val.images) == LAYOUTS[layout]
    assert train.classes == val.classes == ("star", "house")  # nobody marked a ghost
    assert train.count == 3


def test_what_a_folder_does_not_say_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        folders.boxes(tmp_path / "none", {})
    with pytest.raises(FileNotFoundError, match=r"own_data\.train=FILE"):
        folders.boxes(tmp_path, {})
    lay(tmp_path, "flat")
    for split in ("train", "val"):
        (tmp_path / f"other_{split}.json").write_bytes((tmp_path / f"{split}.json").read_bytes())
    with pytest.raises(ValueError, match=r"2 files .*other_train\.json, train\.json"):
        folders.boxes(tmp_path, {})
    found = folders.boxes(tmp_path, {"train": "other_train.json"})
    assert found["val"].annotations == "other_val.json"  # its twin
    with pytest.raises(FileNotFoundError, match="no file"):
        folders.boxes(tmp_path, {"train": "typo.json"})
    (tmp_path / "images" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"'0\.png'.*own_data\.images=FOLDER"):
        folders.boxes(tmp_path, {"train": "other_train.json"})


def labelled(root: Path, names: tuple[str, str] = ("images", "annotations")) -> None:
    """Two photographs a split with maps of the labels 0, 2 and unlabelled."""
    for split in ("train", "val"):
        pictures(root / names[0] / split, ["0.jpg", "1.jpg"])
        (root / names[1] / split).mkdir(parents=True)
        for i in range(2):
            labels = np.full((6, 8), (0, 2)[i], np.uint8)
            labels[0] = 255
            Image.fromarray(labels).save(root / names[1] / split / f"{i}_mask.png")


def test_label_maps_are_found_and_their_classes_named_or_counted(tmp_path: Path) -> None:
    labelled(tmp_path)
    found = folders.maps(tmp_path, {})["train"]
    assert (found.images, found.annotations) == ("images/train", "annotations/train")
    assert found.suffixes == (".jpg", "_mask.png") and found.count == 2
    assert found.classes == ("class 0", "class 1", "class 2")
    assert folders.maps(tmp_path, {}, shifted=True)["val"].classes == ("class 1", "class 2")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [{"name": "a"}, {"name": "b"}]}))
    assert folders.maps(tmp_path, {})["val"].classes == ("a", "b")
    (tmp_path / "classes.txt").write_text("sky\nroad\n\ncar\n")
    assert folders.maps(tmp_path, {})["val"].classes == ("sky", "road", "car")


def test_photographs_without_a_map_are_refused_by_name(tmp_path: Path) -> None:
    labelled(tmp_path, ("img", "lab"))
    with pytest.raises(FileNotFoundError, match="PHOTOGRAPHS,MAPS"):
        folders.maps(tmp_path, {})
    told = {split: [f"img/{split}", f"lab/{split}"] for split in ("train", "val")}
    (tmp_path / "lab" / "train" / "1_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 photographs .*1\.jpg"):
        folders.maps(tmp_path, told)


def test_ten_times_the_photographs_are_trained_on_five_times_as_long() -> None:
    assert [passes_of(n) for n in (200, 2_000, 20_000)] == [100, 50, 25]
    assert passes_of(1) == 300 and passes_of(10**8) == 12
