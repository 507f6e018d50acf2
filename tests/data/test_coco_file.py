"""The one reader of COCO's form: what is wrong with a file is told, with its name and the row."""

from __future__ import annotations

import json

import pytest

from sparc_pretrain import json_file
from sparc_pretrain.data.coco_file import read_coco


def content() -> dict:
    return {
        "images": [{"id": 1, "height": 8, "width": 8}, {"id": 2, "height": 8, "width": 8}],
        "categories": [{"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 7, "image_id": 1, "category_id": 5, "bbox": [0, 0, 2, 2]},
            {"id": 8, "image_id": 2, "category_id": 5, "bbox": [1.5, 0, 2, 2]},
        ],
    }


def write(folder, data) -> str:
    text = data if isinstance(data, (str, bytes)) else json.dumps(data)
    (folder / "x.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder / "x.json")


def test_a_sound_file_is_read_whole_with_numbers_or_texts_for_ids(tmp_path):
    data = content()
    found = read_coco(write(tmp_path, data))
    assert found.content == data and not found.unlisted and not found.is_lvis
    for row in (*data["images"], *data["categories"]):
        row["id"] = str(row["id"])
    for row in data["annotations"]:
        row |= {"image_id": str(row["image_id"]), "category_id": "5"}
    assert read_coco(write(tmp_path, data)).content == data
    assert read_coco(write(tmp_path, b"\xef\xbb\xbf" + json.dumps(data).encode())).content == data


def test_annotations_of_images_that_are_not_listed_are_left_out_and_counted(tmp_path):
    data = content()
    data["annotations"][0]["image_id"] = 9
    found = read_coco(write(tmp_path, data))
    assert found.unlisted == [0] and [row["id"] for row in found.annotations] == [8]
    assert [row["id"] for row in found.of_images([1])["annotations"]] == []
    assert [row["id"] for row in found.of_images([2])["images"]] == [2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("images"), "no list 'images'"),
        (lambda d: d.update(categories={}), "no list 'categories'"),
        (lambda d: d["images"].append(3), r"images\[2\] is no object"),
        (lambda d: d["images"][1].update(id=1), r"images\[1\] has the id 1, which another"),
        (lambda d: d["images"][1].update(id=None), r"id of images\[1\] is neither"),
        (lambda d: d["images"][1].pop("id"), r"images\[1\] has no 'id'"),
        (lambda d: d["categories"][0].pop("name"), r"categories\[0\] has no 'name'"),
        (lambda d: d["annotations"][0].update(image_id="1"), "is '1', listed is 1"),
        (lambda d: d["images"][0].update(id="1"), "is 1, listed is '1'"),
        (lambda d: d["annotations"][0].update(image_id=[1]), "neither a number nor a text"),
        (lambda d: d["annotations"][0].update(image_id=True), "neither a number nor a text"),
        (lambda d: d["annotations"][1].update(category_id=6), "category 6 is not listed"),
        (lambda d: d["annotations"][1].update(category_id="5"), "is '5', listed is 5"),
        (lambda d: d["annotations"][1].update(bbox=[0, 0, float("nan"), 2]), "the box"),
        (lambda d: d["annotations"][1].update(bbox=[0, 0, 2]), "the box"),
        (lambda d: d["annotations"][1].update(bbox=[0, 0, "2", 2]), "the box"),
        (lambda d: d["annotations"][1].pop("bbox"), "the box None"),
    ],
)
def test_what_is_wrong_is_told_with_the_file_and_the_row(tmp_path, change, words):
    data = content()
    change(data)
    with pytest.raises(ValueError, match=words) as error:
        read_coco(write(tmp_path, data))
    assert "x.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("data", ["{", "[" * 100_000, b"\xff{}", "[]", "3"])
def test_what_is_no_json_or_no_object_is_told(tmp_path, data):
    with pytest.raises(ValueError, match=r"x\.json is (no|nested)"):
        read_coco(write(tmp_path, data))
    with pytest.raises(FileNotFoundError, match="no list of words"):
        json_file.read(tmp_path / "none.json", what="list of words")
