"""Files that evaluations read, with a wrong value or no files at all: one line that names them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sparc_pretrain import json_file
from sparc_pretrain.data.captions import read_captions, splits
from sparc_pretrain.data.image_files import find
from sparc_pretrain.data.sets.label_maps import read_maps
from sparc_pretrain.data.sets.phrases import read_phrases
from sparc_pretrain.zeroshot.classification import read_labelled
from sparc_pretrain.zeroshot.prompts import read_classes, templates


def record() -> dict[str, Any]:
    phrase = {"chain": "1", "types": ["people"], "span": [2, 5]}
    return {
        "file_name": "a.jpg",
        "width": 8,
        "height": 6,
        "sentences": [{"text": "a man", "phrases": [phrase]}],
        "boxes": {"1": [[0, 0, 2, 2]]},
        "masks": {"1": [{"size": [6, 8], "counts": "0T1"}]},
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["sentences"][0].update(text=True), "text"),
        (lambda r: r["sentences"][0]["phrases"][0].update(span=[2]), "span"),
        (lambda r: r["sentences"][0]["phrases"][0].update(span=[2, "5"]), "span"),
        (lambda r: r["sentences"][0]["phrases"][0].update(span=[5, 2]), "span"),
        (lambda r: r["sentences"][0]["phrases"][0].update(span=[2, 6]), "span"),
        (lambda r: r["sentences"][0]["phrases"][0].update(types=[[]]), "types"),
        (lambda r: r.update(width="8"), "width and height"),
        (lambda r: r.update(height=0), "width and height"),
        (lambda r: r["boxes"]["1"].append([0, 0, 2, True]), "boxes of four numbers"),
        (lambda r: r["boxes"]["1"].append([8, 0, 2, 2]), "boxes inside the image"),
        (lambda r: r["boxes"]["1"].append([0, -2, 2, 2]), "boxes inside the image"),
        (lambda r: r["masks"]["1"][0].update(size=[8, 6]), "masks of the image's size"),
        (lambda r: r["masks"]["1"][0].update(counts=None), "masks of the image's size"),
    ],
)
def test_a_phrase_with_a_wrong_value_is_told_with_its_file_and_entry(
    tmp_path: Path, change: Callable[[dict], None], words: str
) -> None:
    path, sound, spoilt = tmp_path / "phrases.json", record(), record()
    path.write_text(json.dumps([sound]))
    (image,) = read_phrases(None, path)
    assert [phrase.text for phrase in image.phrases] == ["man"]
    change(spoilt)
    path.write_text(json.dumps([sound, spoilt]))
    with pytest.raises(ValueError, match=rf"phrases\.json: entry 1 has no .*{words}"):
        read_phrases(None, path)


def test_a_box_without_an_area_is_none(tmp_path: Path) -> None:
    one, other = record(), record()
    one["boxes"]["1"].append([3, 3, 0, 2])
    other["boxes"]["1"] = [[3, 3, 0, 2]]
    (tmp_path / "phrases.json").write_text(json.dumps([one, other]))
    first, second = read_phrases(None, tmp_path / "phrases.json")
    assert first.phrases[0].boxes.tolist() == [[0, 0, 2, 2]] and not second.phrases


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "given.json"
    make(path)
    readers = (json_file.read, json_file.read_text, read_captions, splits, read_classes)
    for read in (*readers, lambda file: templates(str(file)), lambda f: read_phrases(None, f)):
        with pytest.raises(ValueError, match=r"given\.json is no file"):
            read(path)
    for folder in ("images", "maps"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "x.png")
    make(tmp_path / "maps" / "x.png")
    with pytest.raises(ValueError, match=r"x\.png is no file"):
        read_maps(tmp_path / "images", tmp_path / "maps", ["sky"])


def test_a_link_to_itself_and_names_that_no_file_can_have_are_no_images(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert find(tmp_path, "a.png", True) == tmp_path / "a.png"
    for name in ("loop.png", "x" * 300, "a\0.png", "../a.png"):
        assert find(tmp_path, name, False) is None


def test_text_that_is_no_utf_8_is_told_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(b"sky\n\xe9\n")
    for read in (json_file.read, read_captions, read_classes, lambda file: templates(str(file))):
        with pytest.raises(ValueError, match=r"classes\.txt is not UTF-8 text \(byte 4\)"):
            read(path)


def test_a_table_that_is_no_csv_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("image,Name\na.jpg,sky\n")
    assert json_file.read_csv(path) == (["image", "Name"], [(2, {"image": "a.jpg", "Name": "sky"})])
    path.write_text("image,Name\na.jpg," + "[" * 200_000 + "\n")
    for read in (json_file.read_csv, read_classes, lambda file: read_labelled(tmp_path, file)):
        with pytest.raises(ValueError, match=r"labels\.csv, line 2: field larger"):
            read(path)
