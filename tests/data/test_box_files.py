"""Annotation files of every kind become shards with boxes, and shards become lines again."""

import json
from collections import Counter

import pytest
import torch
from torchvision.io import encode_jpeg

from sparc_pretrain.data.box_import.files import KINDS, read_boxes
from sparc_pretrain.data.elements import parse
from sparc_pretrain.data.shards import ShardSet
from tests.commands import call, refusal


@pytest.fixture
def images(tmp_path):
    """Pictures 1.jpg, 2.jpg and sub/3.jpg of 60 x 40."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "sub/3.jpg"):
        pixels = torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8)
        (folder / name).write_bytes(encode_jpeg(pixels).numpy().tobytes())
    return folder


def written(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def imported(tmp_path, images, kind, *files, more=()):
    """The stored members by key, of `tools/data.py boxes`."""
    out = tmp_path / f"out-{kind}-{len(list(tmp_path.glob('out*')))}"
    argv = ["boxes", "--kind", kind, "--images", images, "--out", out, "--annotations", *files]
    code, said = call("data", *argv, *more)
    assert code in (0, None), said
    shards = ShardSet(out)
    raws = [shards.read(n) for n in range(len(shards))]
    return {raw.key: json.loads(raw.text) for raw in raws}


COCO = {
    "images": [
        {"id": 1, "file_name": "1.jpg", "coco_url": "http://x/train2017/1.jpg"},
        {"id": 2, "file_name": "2.jpg", "coco_url": "http://x/train2017/2.jpg"},
    ],
    "categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "cup_(trophy)"}],
    "annotations": [
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 10, 10], "iscrowd": 0},
        {"image_id": 1, "category_id": 9, "bbox": [5, 5, 30, 20]},
        {"image_id": 1, "category_id": 7, "bbox": [5, 5, 9, 9], "iscrowd": 1},
        {"image_id": 1, "category_id": 7, "bbox": [5, 5, 0, 9]},
        {"image_id": 1, "category_id": 7, "bbox": [60, 5, 5, 9]},
    ],
}


@pytest.mark.parametrize("kind", ["coco", "objects365", "lvis"])
def test_category_names_are_texts_and_classes(tmp_path, images, kind, capsys):
    data = json.loads(json.dumps(COCO))
    for image in data["images"] if kind == "lvis" else ():
        del image["file_name"]
    captions = {"images": [{"id": 4, "file_name": "1.jpg"}, {"id": 5, "file_name": "2.jpg"}]}
    captions["annotations"] = [{"image_id": 4, "caption": "a dog"}]
    more = () if kind == "lvis" else ("--captions", written(tmp_path / "captions.json", captions))
    found = imported(tmp_path, images, kind, written(tmp_path / "boxes.json", data), more=more)
    name = next(key for key in found if key.endswith("1"))
    assert found.keys() == {name}, "an image without boxes and captions is left out"
    member = found[name]
    assert member["image_id"] == f"{'coco' if kind == 'lvis' else kind}/1"
    assert member.get("captions") == (None if kind == "lvis" else ["a dog"])
    assert [e["box"] for e in member["elems"]] == [[0, 0, 10, 10], [5, 5, 30, 20]]
    texts = [e["text"] for e in member["elems"]]
    assert texts[0] == ["dog"] and texts[1] != ["cup_(trophy)"]
    said = capsys.readouterr().out
    for reason in ("crowd: 1", "no area: 1", "outside of the image: 1", "nor a box: 1"):
        assert reason in said, said
    assert "1 images with 2 boxes and 2 texts in 1 shards" in said


def test_boxes_shrink_with_their_picture(tmp_path, images):
    file = written(tmp_path / "boxes.json", COCO)
    found = imported(tmp_path, images, "coco", file, more=("--resize", "20"))["1"]
    assert (found["width"], found["height"]) == (30, 20)
    assert [e["box"] for e in found["elems"]] == [[0, 0, 5, 5], [2.5, 2.5, 15, 10]]


def test_visual_genomes_files_are_joined_and_evaluation_images_left_out(tmp_path, images):
    box = {"x": 1, "y": 2, "width": 10, "height": 12}
    regions = [
        {"id": n, "regions": [box | {"image_id": n, "phrase": "a dog runs"}]} for n in (1, 2)
    ]
    thing = {"x": 1, "y": 2, "w": 10, "h": 12}
    objects = [{"image_id": 1, "objects": [thing | {"names": ["dog"]}]}]
    kinds = [{"image_id": 1, "attributes": [thing | {"names": ["dog"], "attributes": ["wet"]}]}]
    data = [{"image_id": 1, "width": 60, "height": 40, "url": "u", "coco_id": 88}]
    files = [
        written(tmp_path / f"{name}.json", value)
        for name, value in dict(r=regions, o=objects, a=kinds, i=data).items()
    ]
    exclude = written(tmp_path / "exclude.txt", "2\n")
    found = imported(tmp_path, images, "vg", *files, more=("--exclude", exclude))
    assert found.keys() == {"1"} and found["1"]["image_id"] == "coco/88"
    said = ["a dog runs", "dog", "wet dog"]
    assert found["1"]["elems"] == [{"box": [1, 2, 10, 12], "text": said, "label": "dog"}]


ENTITIES = [
    {
        "file_name": "1.jpg",
        "width": 60,
        "height": 40,
        "sentences": [
            {
                "text": "A dog and two cats .",
                "phrases": [
                    {"chain": 1, "types": ["animals"], "span": [0, 5]},
                    {"chain": 2, "types": ["animals"], "span": [10, 18]},
                    {"chain": 0, "types": ["notvisual"], "span": [6, 9]},
                ],
            },
            {"text": "the pet", "phrases": [{"chain": 1, "types": [], "span": [0, 7]}]},
        ],
        "boxes": {"1": [[1, 1, 5, 5]], "2": [[10, 10, 5, 5], [20, 20, 5, 6]]},
    }
]


@pytest.mark.parametrize(
    "several, boxes",
    [("skip", []), ("union", [[10, 10, 15, 16]]), ("each", [[10, 10, 5, 5], [20, 20, 5, 6]])],
)
def test_phrases_of_several_boxes_become_what_is_asked(tmp_path, images, several, boxes):
    file = written(tmp_path / "entities.json", ENTITIES)
    found = imported(tmp_path, images, "entities", file, more=("--several", several))["1"]
    assert found["captions"] == ["A dog and two cats .", "the pet"]
    assert found["elems"][0] == {"box": [1, 1, 5, 5], "text": ["A dog", "the pet"]}
    assert [e["box"] for e in found["elems"][1:]] == boxes
    assert found["image_id"] == "flickr/1"


@pytest.mark.parametrize("kind", ["odvg", "xvlm"])
def test_shards_and_lines_of_others_round_trip(tmp_path, images, kind):
    file = written(tmp_path / "entities.json", ENTITIES)
    first = imported(tmp_path, images, "entities", file, more=("--several", "each"))["1"]
    shards, out = next(tmp_path.glob("out*")), tmp_path / "lines"
    assert call("data", "export", shards, "--kind", kind, "--out", out)[0] in (0, None)
    again = imported(tmp_path, out / "images", kind, out / f"{kind}.jsonl")["1"]
    assert sorted(map(json.dumps, again["elems"])) == sorted(map(json.dumps, first["elems"]))
    assert again["captions"][0] == first["captions"][0]


def test_lines_hold_pictures_or_their_names_but_none_outside_of_the_folder(
    tmp_path, images, capsys
):
    import base64

    pixels = base64.b64encode((images / "2.jpg").read_bytes()).decode()
    elems = [{"bb": [1, 2, 3, 4], "caption": "a dog"}]
    lines = [
        {"image_id": "x/9", "binary": pixels, "elems": elems},
        {"image": "sub/3.jpg", "elems": elems},
        {"image": "../secret.jpg", "elems": elems},
        {"image": "1.jpg", "elems": [{"bb": [1, 2, 3], "caption": "a dog"}]},
    ]
    (tmp_path / "secret.jpg").write_bytes((images / "1.jpg").read_bytes())
    file = written(tmp_path / "lines.jsonl", "\n".join(map(json.dumps, lines)))
    found = imported(tmp_path, images, "xvlm", file)
    assert found.keys() == {"x/9", "sub_3"} or found.keys() == {"x_9", "sub_3"}
    said = capsys.readouterr().out
    assert "outside of the folder: 1" in said and "not four numbers: 1" in said


def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, images):
    file = written(tmp_path / "boxes.json", COCO)
    other = written(tmp_path / "entities.json", ENTITIES)
    for kind, path, reason in (
        ("entities", file, "entities"),
        ("coco", other, "COCO"),
        ("vg", file, "Visual Genome"),
        ("odvg", other, "line 1"),
        ("xvlm", file, "line 1"),
        ("coco", tmp_path / "none.json", "no annotation file"),
    ):
        argv = ["boxes", "--kind", kind, "--images", images, "--out", tmp_path / "o"]
        line = refusal(call("data", *argv, "--annotations", path))
        assert reason in line and path.name in line, line
    argv = ["boxes", "--kind", "coco", "--images", tmp_path / "nowhere", "--out", tmp_path / "o"]
    assert "is not a folder" in refusal(call("data", *argv, "--annotations", file))


def test_every_kind_is_known_and_no_other(tmp_path):
    assert set(KINDS) == {
        *("xvlm", "odvg", "coco", "objects365", "lvis", "vg", "entities", "scenes")
    }
    with pytest.raises(ValueError, match="kind 'voc'"):
        next(read_boxes("voc", [], Counter()))


def test_the_stored_member_is_what_training_reads(tmp_path, images):
    file = written(tmp_path / "boxes.json", COCO)
    imported(tmp_path, images, "coco", file)
    raw = ShardSet(next(tmp_path.glob("out*"))).read(0)
    assert raw.is_json and len(parse(raw.text, 60, 40)) == 2


def test_scenes_come_as_samples_with_boxes_too(tmp_path):
    out = tmp_path / "scenes"
    argv = ["scenes", "--out", out, "--train", "3", "--val", "2", "--size", "48"]
    assert call("data", *argv)[0] in (0, None)
    pairs = ShardSet(f"{out}/shards/train-*.tar")
    boxed = ShardSet(f"{out}/shards/boxes-train-*.tar")
    assert len(pairs) == len(boxed) == 3
    for n in range(3):
        assert pairs.read(n).image == boxed.read(n).image
        captions = json.loads(pairs.read(n).text)["captions"]
        found = parse(boxed.read(n).text, 48, 48)
        assert found.captions == captions and len(found) >= 2
        for texts, label in zip(found.texts, found.labels, strict=True):
            assert texts[-1] == label and all(label in text for text in texts)
            assert all(any(text in caption for caption in captions) for text in texts[:-1])
        assert found.product_id.split("-")[0] in found.labels
        assert found.saliency.tolist() in found.boxes.tolist()
    (out / "annotations" / "elements_train.json").unlink()  # as data written before there were any
    assert call("data", *argv)[0] in (0, None)
    assert ShardSet(f"{out}/shards/boxes-train-*.tar").sha256 == boxed.sha256
