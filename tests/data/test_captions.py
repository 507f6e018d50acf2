"""Caption files of every kind are read, and mistakes in them are told with file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparc_pretrain.data.captions import BadCaption, read_captions, stored_captions
from sparc_pretrain.data.shard_index import RawSample
from sparc_pretrain.zeroshot.encode import CaptionedImages

WANT = {"a.jpg": ["one, dog", "two"], "b.jpg": ["three ü"]}
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 7, "caption": "one, dog"},
        {"image_id": 9, "caption": " three ü\n"},
        {"image_id": 7, "caption": "two"},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "one, dog"}, {"raw": "two"}]},
        {"filename": "b.jpg", "split": "restval", "sentences": [{"raw": "three ü"}]},
        {
            "filename": "c.jpg",
            "split": "val",
            "sentences": [{"raw": "four"}],
            "filepath": "val2014",
        },
    ]
}


def write(folder: Path, name: str, content) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


FILES = {
    "coco.json": COCO,
    "Flickr8k.token.txt": "a.jpg#0\tone, dog\na.jpg#1\ttwo\n\nb.jpg#0\tthree ü\n",
    "results.token": "a.jpg#0\tone, dog\na.jpg#1\ttwo\nb.jpg#0\tthree ü",
    "header.csv": 'image,caption\na.jpg,"one, dog"\na.jpg,two\nb.jpg,three ü\n',
    "swapped.csv": '\ufeffid,Caption,File_Name\r\n1,"one, dog",a.jpg\r\n'
    "2,two,a.jpg\r\n3,three ü,b.jpg\r\n",
    "bare.csv": 'a.jpg,"one, dog"\na.jpg,two\nb.jpg,three ü\n',
    "header.tsv": "caption\timage\none, dog\ta.jpg\ntwo\ta.jpg\nthree ü\tb.jpg\n",
    "tabs.txt": "a.jpg\tone, dog\na.jpg\ttwo\nb.jpg\tthree ü\n",
    "lines.jsonl": '{"image": "a.jpg", "captions": ["one, dog", "two"]}\n\n'
    '{"file_name": "b.jpg", "text": "three ü"}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_captions(tmp_path, name):
    assert read_captions(write(tmp_path, name, FILES[name])) == WANT


def test_an_image_is_read_with_all_its_captions_the_first_or_the_longest(tmp_path):
    rows = [("a.jpg", "dog"), ("a.jpg", "a dog"), ("a.jpg", "x dog"), ("b.jpg", "b"), ("c.jpg", "")]
    file = write(tmp_path, "c.tsv", "".join(f"{i}\t{c}\n" for i, c in [("image", "text"), *rows]))
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()

    def read(per_image):
        found = CaptionedImages.read(tmp_path, file, per_image=per_image)
        return found.captions, found.image_of_text

    assert read(None) == (["dog", "a dog", "x dog", "b"], [0, 0, 0, 1])
    assert read(1) == (["dog", "b"], [0, 1]) and read(2) == (["dog", "a dog", "b"], [0, 0, 1])
    assert read("longest") == (["a dog", "b"], [0, 1])


def test_a_karpathy_file_is_read_by_split(tmp_path):
    path = write(tmp_path, "dataset_coco.json", KARPATHY)
    assert read_captions(path, "train+restval") == WANT
    assert read_captions(path, "val") == {"val2014/c.jpg": ["four"]}
    assert len(read_captions(path)) == 3
    with pytest.raises(ValueError, match="restval, train, val, not 'test'"):
        read_captions(path, "test")


def test_images_without_a_usable_caption_keep_an_empty_list(tmp_path):
    coco = {"images": COCO["images"], "annotations": COCO["annotations"][:1]}
    coco["annotations"] = [*coco["annotations"], {"image_id": 9, "caption": "  "}]
    assert read_captions(write(tmp_path, "c.json", coco)) == {"a.jpg": ["one, dog"], "b.jpg": []}


def test_a_caption_with_half_a_character_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = ['{"image": "a.png", "caption": "a dog \\ud83d"}', '{"image": "a.png", "caption": "x"}']
    path.write_text("\n".join(rows))
    assert read_captions(path) == {"a.png": ["x"]}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("a.csv", "1.jpg,A dog, running, in a field", r"line 2: 4 columns, the first line has 2"),
        ("a.csv", '1.jpg,"A sign\n2.jpg,A cat\n3.jpg,A quoted" bird', r"line 4: .*expected after"),
        ("a.csv", '1.jpg,"A sign\n2.jpg,A cat', "unexpected end of data"),
        ("a.tsv", "1.jpg\tA dog\tmore", r"line 2: 3 columns, the first line has 2"),
    ],
)
def test_a_table_whose_captions_would_be_cut_or_swallowed_is_refused(tmp_path, name, row, message):
    path = tmp_path / name
    path.write_text(("image,caption\n" if name.endswith("csv") else "image\tcaption\n") + row)
    with pytest.raises(ValueError, match=message):
        read_captions(path)


def test_tables_of_pandas_and_of_kaggle_are_read(tmp_path):
    (tmp_path / "a.tsv").write_text(
        'image\tcaption\n1.jpg\t"He said ""hi"" to her"\n2.jpg\t"A" and "B"\n3.jpg\ta 5" nail\n'
    )
    found = read_captions(tmp_path / "a.tsv")
    assert [one for (one,) in found.values()] == ['He said "hi" to her', '"A" and "B"', 'a 5" nail']
    (tmp_path / "results.csv").write_text(
        'image_name| comment_number| comment\n1.jpg| 0| A dog, running, "fast" .\n1.jpg| 1| A cat\n'
    )
    assert read_captions(tmp_path / "results.csv") == {
        "1.jpg": ['A dog, running, "fast" .', "A cat"]
    }
    (tmp_path / "trailing.csv").write_text("image,caption\n1.jpg,a dog,,\n")
    assert read_captions(tmp_path / "trailing.csv") == {"1.jpg": ["a dog"]}


def test_a_byte_order_mark_is_no_part_of_a_stored_caption():
    for text, is_json in (("\ufeffa dog", False), ('\ufeff{"caption": "a dog"}', True)):
        assert stored_captions(RawSample("k", b"", text.encode(), is_json)) == ["a dog"]


def test_a_quoted_field_may_span_lines(tmp_path):
    path = write(tmp_path, "c.csv", 'image,caption\na.jpg,"one\ntwo"\n')
    assert read_captions(path) == {"a.jpg": ["one\ntwo"]}


def test_the_published_flickr30k_table_is_read_at_its_row_without_a_bar(tmp_path):
    lines = ["image_name| comment_number| comment", "a.jpg| 0| Two men talk , outside ."]
    lines += ["b.jpg| 4   A cat walks over a wall .", "c.jpg| 0| A girl ."]
    path = write(tmp_path, "results.csv", "\n".join(lines))
    assert read_captions(path) == {
        "a.jpg": ["Two men talk , outside ."],
        "b.jpg": ["A cat walks over a wall ."],
        "c.jpg": ["A girl ."],
    }
    with pytest.raises(ValueError, match=r"line 4: 2 columns"):
        read_captions(write(tmp_path, "results.csv", "\n".join([*lines[:3], "c.jpg| A girl ."])))


def test_a_caption_that_is_null_leaves_an_image_without_caption_as_an_empty_cell_does(tmp_path):
    want = {"a.jpg": ["one"], "b.jpg": []}
    lines = '{"image": "a.jpg", "caption": "one"}\n{"image": "b.jpg", "caption": null}'
    assert read_captions(write(tmp_path, "c.jsonl", lines)) == want
    lines = '{"image": "a.jpg", "captions": ["one", null]}\n{"image": "b.jpg", "captions": [null]}'
    assert read_captions(write(tmp_path, "c.jsonl", lines)) == want
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    rows = [{"image_id": 1, "caption": "one"}, {"image_id": 2, "caption": None}]
    coco = {"images": images, "annotations": rows}
    assert read_captions(write(tmp_path, "c.json", json.dumps(coco))) == want
    assert read_captions(write(tmp_path, "c.csv", "image,caption\na.jpg,one\nb.jpg,\n")) == want


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "{", "c.json is not JSON"),
        ("c.json", {"annotations": []}, "no list 'images'"),
        ("c.json", [], "no list 'images'"),
        ("c.json", {"images": [{"id": 1}], "annotations": []}, r"images\[0\] has no 'file_name'"),
        ("c.json", COCO | {"annotations": [{"image_id": 1, "caption": ""}]}, "unknown image 1"),
        ("c.json", COCO | {"annotations": [{"image_id": 7}]}, r"annotations\[0\] has no 'caption'"),
        ("c.json", COCO | {"annotations": [{"image_id": 7, "caption": 5}]}, "must be texts"),
        ("c.json", COCO | {"annotations": []}, "no caption"),
        ("c.json", {"images": [{"filename": "a"}]}, "no 'sentences'"),
        ("c.json", "[" * 100_000, "c.json is not JSON"),
        ("c.json", {"images": [], "annotations": None}, "no list 'annotations'"),
        ("c.json", {"images": [{"id": [1], "file_name": "a"}], "annotations": []}, "id of images"),
        ("c.json", COCO | {"annotations": [{"image_id": [7]}]}, "image_id of annotations"),
        ("c.json", {"images": [{"filename": "a", "sentences": None}]}, "are not a list"),
        ("c.jsonl", '{"image": "a", "caption": "b"}\n{', "line 2: not JSON"),
        ("c.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("c.jsonl", '{"image": "a"}', "line 1: needs"),
        ("c.jsonl", "[]", "line 1: not a JSON object"),
        ("c.token", "a.jpg#0\tone\nb.jpg two", "line 2: expected"),
        ("c.csv", "image,caption\na.jpg\n", "line 2: 1 columns"),
        ("c.csv", "name,words\na,b\n", "line 1: no header"),
        ("c.csv", "", "has no caption"),
        ("c.xml", "<a/>", "unknown kind"),
    ],
)
def test_mistakes_are_told_with_file_and_place(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        read_captions(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_split_of_a_file_without_splits_is_refused(tmp_path):
    for name in ("coco.json", "bare.csv"):
        with pytest.raises(ValueError, match="split"):
            read_captions(write(tmp_path, name, FILES[name]), "train")


def test_text_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "c.csv").write_bytes(b"a.jpg,caf\xe9\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_captions(tmp_path / "c.csv")


def stored(text: bytes | None, is_json: bool = False) -> RawSample:
    return RawSample("k", b"", text, is_json)


def test_stored_captions_are_stripped_and_blank_ones_left_out():
    assert stored_captions(stored(b" a dog \n")) == ["a dog"]
    assert stored_captions(stored(b'{"captions": ["a", " ", 5, "b"]}', True)) == ["a", "b"]
    assert stored_captions(stored(b'{"caption": "a", "url": "x"}', True)) == ["a"]
    assert stored_captions(stored(b'{"caption": ["a"], "captions": []}', True)) == ["a"]
    assert stored_captions(stored("🐶 a\0b שלום".encode())) == ["🐶 a\0b שלום"]


@pytest.mark.parametrize(
    ("text", "is_json", "reason"),
    [
        (None, False, "no caption"),
        (b"", False, "empty"),
        (b" \n\t ", False, "empty"),
        (b"caf\xe9", False, "UTF-8"),
        (b'{"caption": "caf\xe9"}', True, "UTF-8"),
        (b'{"caption": "\\ud800"}', True, "UTF-8"),
        (b"{", True, "broken"),
        (b"[" * 100_000, True, "broken"),
        (b"[]", True, "not an object"),
        (b"{}", True, "neither 'caption' nor 'captions'"),
        (b'{"text": "a"}', True, "neither 'caption' nor 'captions'"),
        (b'{"caption": null}', True, "empty"),
        (b'{"caption": {"a": 1}}', True, "empty"),
    ],
)
def test_unusable_stored_captions_are_refused_with_the_reason(text, is_json, reason):
    with pytest.raises(BadCaption, match=reason):
        stored_captions(stored(text, is_json))
