"""tools/data.py: images and captions become shards, what is skipped is told, mistakes too."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparc_pretrain.data.images import read_size
from sparc_pretrain.data.shard_index import index_file
from sparc_pretrain.data.shards import ShardSet

TOOL = Path(__file__).parents[2] / "tools" / "data.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tool_data", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    y, x = np.mgrid[:50, :80]
    pixels = np.stack([x * 3, y * 5, x + y], -1).astype(np.uint8)
    for name in ("a.jpg", "a.png", "sub/b.c.jpg"):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(pixels[:20, :30]).save(folder / "small.jpg")
    (folder / "page.jpg").write_text("<html>")
    (tmp_path / "outside.jpg").write_bytes((folder / "a.jpg").read_bytes())
    rows = ["a.jpg", "a.jpg", "a.png", "sub/b.c.jpg", "small.jpg", "page.jpg", "gone.jpg"]
    rows += ["../outside.jpg", str(tmp_path / "outside.jpg")]
    lines = [json.dumps({"image": name, "caption": f"text {i}"}) for i, name in enumerate(rows)]
    lines.append(json.dumps({"image": "blank.jpg", "caption": " "}))
    lines += [json.dumps({"image": name, "caption": "\ud800"}) for name in ("a.png", "odd.jpg")]
    lines += [json.dumps({"image": name, "caption": "x"}) for name in ("n" * 300, "a\0.jpg")]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    return folder


def shards(tool, photos: Path, *extra: str) -> ShardSet:
    out = photos.parent / "out"
    captions = photos.parent / "captions.jsonl"
    tool.main(
        ["shards", "--images", str(photos), "--captions", str(captions), "--out", str(out), *extra]
    )
    return ShardSet(out)


def by_key(made: ShardSet) -> dict:
    return {sample.key: sample for sample in map(made.read, range(len(made)))}


def test_samples_are_shuffled_by_a_seed_whatever_the_number_of_threads(tool, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in range(40):
        Image.new("RGB", (16, 16), (n, 0, 0)).save(photos / f"{n:02d}.png")
    rows = [json.dumps({"image": f"{n:02d}.png", "caption": f"text {n}"}) for n in range(40)]
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    orders = []
    for seed, jobs in ((0, 1), (0, 3), (1, 3)):
        made = shards(tool, photos, "--seed", str(seed), "--jobs", str(jobs), "--overwrite")
        orders.append([made.read(n).key for n in range(40)])
        assert all(found.text == f"text {int(key)}".encode() for key, found in by_key(made).items())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) != orders[0]


def test_good_pairs_are_stored_and_the_others_counted_by_reason(tool, photos, capsys):
    made = shards(tool, photos, "--shard-size", "3")
    assert made.sizes.tolist() == [3, 1]
    found = by_key(made)
    assert sorted(found) == ["a", "a_", "small", "sub_b_c"]
    assert json.loads(found["a"].text) == {"captions": ["text 0", "text 1"]}
    assert found["sub_b_c"].text == b"text 3"
    said = capsys.readouterr().out
    assert "4 pairs in 2 shards" in said and "skipped 8" in said
    assert "outside of the folder: 5" in said and "no caption: 2" in said
    assert "not an image: 1" in said


def test_without_resizing_the_bytes_are_copied(tool, photos):
    made = shards(tool, photos)
    found = by_key(made)
    assert found["a"].image == (photos / "a.jpg").read_bytes()
    assert found["a_"].image == (photos / "a.png").read_bytes()


def test_resizing_brings_larger_images_down_and_copies_smaller_ones(tool, photos):
    made = shards(tool, photos, "--resize", "25")
    found = by_key(made)
    assert read_size(found["a_"].image) == ("jpeg", 40, 25)
    assert found["small"].image == (photos / "small.jpg").read_bytes()
    shrunk = Image.open(io.BytesIO(found["a"].image))
    want = Image.open(photos / "a.jpg").resize((40, 25), Image.Resampling.BICUBIC)
    difference = np.asarray(shrunk, float) - np.asarray(want, float)
    assert np.abs(difference).mean() < 2


def test_existing_shards_are_kept_unless_overwriting_is_asked_for(tool, photos):
    shards(tool, photos)
    with pytest.raises(FileExistsError, match="--overwrite"):
        shards(tool, photos)
    assert len(shards(tool, photos, "--overwrite")) == 4


def test_nothing_is_overwritten_when_no_pair_is_found(tool, photos):
    shards(tool, photos)
    (photos.parent / "captions.jsonl").write_text('{"image": "gone.jpg", "caption": "x"}')
    with pytest.raises(ValueError, match="no pair"):
        shards(tool, photos, "--overwrite")
    assert len(ShardSet(photos.parent / "out")) == 4


def test_two_images_of_one_last_name_are_not_taken_for_each_other(tool, photos, capsys):
    rows = [{"image": f"part{n}/a.jpg", "caption": f"text {n}"} for n in (1, 2)]
    rows.append({"image": "elsewhere/a.png", "caption": "the only one of that name"})
    (photos.parent / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = shards(tool, photos)
    assert [made.read(i).key for i in range(len(made))] == ["elsewhere_a"]
    assert "image file missing or outside of the folder: 2" in capsys.readouterr().out


def test_what_a_karpathy_file_holds_out_is_not_taken_by_mistake(tool, photos):
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": "a dog"}]}
        for name, split in (("a.jpg", "train"), ("a.png", "val"))
    ]
    (photos.parent / "captions.jsonl").write_text("")
    (photos.parent / "k.json").write_text(json.dumps({"images": entries}))
    rest = ["--captions", str(photos.parent / "k.json")]
    with pytest.raises(ValueError, match=r"has the splits train, val: choose with --split"):
        shards(tool, photos, *rest)
    assert len(shards(tool, photos, *rest, "--split", "train")) == 1
    assert len(shards(tool, photos, *rest, "--split", "train+val", "--overwrite")) == 2


@pytest.mark.parametrize(
    ("members", "said", "refused"),
    [
        (["1.jpg", "2.jpg"], "2 samples have no caption", True),
        (["1.jpg", "2.jpg", "1.txt", "2.txt"], "tar --sort=name", True),
        (["1.jpg", "1.json", "2.jpg", "2.json"], "neither 'caption' nor 'captions'", True),
        (["1.jpg", "1.txt", "2.jpg"], "1 samples have no caption", False),
    ],
)
def test_indexing_says_at_once_what_training_would_refuse(
    tool, tmp_path, capsys, members, said, refused
):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in members:
            data = b'{"text": "a dog"}'
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    if refused:
        with pytest.raises(ValueError, match=r"a\.tar: training finds no caption that it can use"):
            tool.main(["index", str(tmp_path / "a.tar")])
    else:
        tool.main(["index", str(tmp_path / "a.tar")])
    assert said in capsys.readouterr().out


def test_tars_are_indexed_and_counted_before_a_training(tool, photos, capsys):
    made = shards(tool, photos, "--shard-size", "3")
    for path in made.paths:
        index_file(path).unlink()
    tool.main(["index", str(photos.parent / "out")])
    assert "4 samples in 2 tars" in capsys.readouterr().out
    assert all(index_file(path).exists() for path in made.paths)
    made.paths[1].write_bytes(made.paths[1].read_bytes()[:2000])
    with pytest.raises(ValueError, match="1 of 2 tars are missing or damaged"):
        tool.main(["index", str(photos.parent / "out")])
    assert f"WRONG  {made.paths[1]}: damaged or truncated" in capsys.readouterr().out


def test_scenes_become_a_data_set_with_shards(tool, tmp_path):
    out = tmp_path / "scenes"
    for _ in range(2):  # again: the same data set, nothing in the way
        numbers = ["--train", "6", "--val", "3", "--size", "64", "--shard-size", "4"]
        tool.main(["scenes", "--out", str(out), *numbers])
    train, val = ShardSet(str(out / "shards/train-*.tar")), ShardSet(str(out / "shards/val-*.tar"))
    assert train.sizes.tolist() == [4, 2] and len(val) == 3
    assert read_size(train.read(0).image) == ("jpeg", 64, 64)
    assert len(json.loads(train.read(0).text)["captions"]) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--images", "nowhere"], "--images nowhere is not a folder"),
        (["--captions", "nowhere.json"], "nowhere.json"),
        (["--resize", "0"], "--resize"),
        (["--shard-size", "0"], "shard_size"),
        (["--split", "train"], "leave --split out"),
    ],
)
def test_mistakes_raise_what_the_door_turns_into_one_line(tool, photos, change, message):
    with pytest.raises((ValueError, OSError), match=message):
        shards(tool, photos, *change)


def test_the_command_ends_a_mistake_in_one_line_and_code_2():
    command = [sys.executable, str(TOOL), "shards", "--images", "nowhere"]
    done = subprocess.run(
        [*command, "--captions", "c.csv", "--out", "o"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == ["error: --images nowhere is not a folder"]


def coco(root: Path) -> Path:
    """Two splits of one photograph each, as COCO's archives unpack."""
    for split in ("train2017", "val2017"):
        (root / split).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / split / "000000000009.jpg")
        rows = dict(images=[{"file_name": "000000000009.jpg"}], annotations=[], categories=[])
        for task in ("instances", "captions"):
            (root / "annotations").mkdir(exist_ok=True)
            (root / "annotations" / f"{task}_{split}.json").write_text(json.dumps(rows))
    return root


def test_a_complete_data_set_is_reported_part_by_part(tool, tmp_path, capsys):
    tool.main(["coco", str(coco(tmp_path / "coco"))])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and all(line.startswith("   ok  ") for line in lines)


def test_a_missing_part_is_listed_with_its_address_and_refused(tool, tmp_path, capsys):
    root = coco(tmp_path / "coco")
    (root / "annotations" / "captions_val2017.json").unlink()
    with pytest.raises(ValueError, match="1 of 7 parts"):
        tool.main(["coco", str(root), "--check"])
    wrong = [line for line in capsys.readouterr().out.splitlines() if "WRONG" in line]
    assert len(wrong) == 1 and "captions_val2017.json: missing: download http" in wrong[0]


def test_looking_changes_nothing(tool, tmp_path):
    (tmp_path / "val2017.zip").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="is not complete"):
        tool.main(["coco", str(tmp_path), "--check"])
    with pytest.raises(ValueError, match="is damaged"):
        tool.main(["coco", str(tmp_path)])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        tool.main(["coco", str(tmp_path / "nowhere"), "--check"])


def test_the_photographs_of_coco_are_linked_for_lvis(tool, tmp_path):
    root = tmp_path / "lvis"
    (root / "annotations").mkdir(parents=True)
    url = "http://images.cocodataset.org/val2017/000000000009.jpg"
    rows = dict(images=[{"coco_url": url}], annotations=[], categories=[{"frequency": "r"}])
    for split in ("train", "val"):
        (root / "annotations" / f"lvis_v1_{split}.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="is not complete"):
        tool.main(["lvis", str(root)])
    tool.main(["lvis", str(root), "--coco", str(coco(tmp_path / "coco"))])
    assert (root / "val2017").is_symlink()
