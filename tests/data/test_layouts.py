"""Miniature data sets in the real layouts: what is complete, what is missing, what is converted."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparc_pretrain.data.captions import read_captions
from sparc_pretrain.data.layouts import LAYOUTS, Finding, link_coco, prepare, voc
from sparc_pretrain.data.layouts.unpack import Archive, unpack

PIXEL = {}


def photo(path: Path, kind: str = "JPEG") -> Path:
    if kind not in PIXEL:
        Image.new("RGB" if kind == "JPEG" else "L", (4, 4)).save(data := io.BytesIO(), kind)
        PIXEL[kind] = data.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PIXEL[kind])
    return path


def annotations(path: Path, images: list[dict], categories: list[dict] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = dict(images=images, annotations=[{"id": 1}], categories=categories or [{"id": 1}])
    path.write_text(json.dumps(content))
    return path


def make_coco(root: Path) -> None:
    for split in ("train2017", "val2017"):
        names = [f"{number:012}.jpg" for number in (9, 25)]
        for task in ("instances", "captions"):
            file = root / "annotations" / f"{task}_{split}.json"
            annotations(file, [{"id": i, "file_name": name} for i, name in enumerate(names)])
        for name in names:
            photo(root / split / name)


def make_lvis(root: Path) -> None:
    for split in ("train", "val"):
        # LVIS's val has photographs of COCO's train
        url = "http://images.cocodataset.org/train2017/000000000009.jpg"
        rows = [{"id": 1, "coco_url": url, "neg_category_ids": []}]
        file = root / "annotations" / f"lvis_v1_{split}.json"
        annotations(file, rows, [{"id": 1, "frequency": "r"}])
    photo(root / "train2017" / "000000000009.jpg")


def make_ade20k(root: Path) -> None:
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        photo(root / "ADEChallengeData2016" / "images" / split / f"{name}.jpg")
        photo(root / "ADEChallengeData2016" / "annotations" / split / f"{name}.png", "PNG")


def make_voc(root: Path, augmented: bool = True) -> None:
    lists = root / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, name in (("train", "2007_000032"), ("val", "2007_000033")):
        (lists / f"{split}.txt").write_text(f"{name}\n")
        photo(root / "VOC2012" / "SegmentationClass" / f"{name}.png", "PNG")
        photo(root / "VOC2012" / "JPEGImages" / f"{name}.jpg")
    photo(root / "VOC2012" / "JPEGImages" / "2008_000002.jpg")
    if augmented:
        make_sbd(root)
        list(prepare(LAYOUTS["voc"], root))


def make_sbd(root: Path) -> np.ndarray:
    """SBD has one photograph of its own, and one that VOC's val has."""
    from scipy.io import savemat

    folder = root / "VOCaug" / "dataset"
    (folder / "cls").mkdir(parents=True)
    (folder / "train.txt").write_text("2008_000002\n2007_000032\n")
    (folder / "val.txt").write_text("2007_000033\n")
    mask = np.array([[0, 15], [20, 255]], np.uint8)
    for name in ("2008_000002", "2007_000033"):
        savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": mask}})
    return mask


def make_objects365(root: Path) -> None:
    for split in ("train", "val"):
        name = f"images/v1/patch8/objects365_v1_{split}.jpg"
        file = root / "annotations" / f"zhiyuan_objv2_{split}.json"
        annotations(file, [{"id": 1, "file_name": name}])
        photo(root / split / "patch8" / f"objects365_v1_{split}.jpg")


def make_flickr8k(root: Path) -> None:
    """As the mirror's two archives unpack: their lists, their captions, their misspelt folder."""
    names = [f"{n}_aaaaaaaaaa.jpg" for n in range(3)]
    lines = [f"{name}#{n}\tA dog runs {n} .\n" for name in names for n in range(5)]
    (root / "Flickr8k.token.txt").write_text("".join(lines))
    (root / "Flickr_8k.trainImages.txt").write_text(f"{names[0]}\n{names[1]}\n")
    (root / "Flickr_8k.devImages.txt").write_text(f"{names[2]}\n")
    for name in names:
        photo(root / "Flicker8k_Dataset" / name)
    list(prepare(LAYOUTS["flickr8k"], root))


def make_flickr30k(root: Path) -> None:
    for number in range(2):
        photo(root / "flickr30k-images" / f"{number}.jpg")
    lines = [f"{number}.jpg#0\tTwo people .\n" for number in range(2)]
    (root / "results_20130124.token").write_text("".join(lines))
    list(prepare(LAYOUTS["flickr30k"], root))


MAKE: dict[str, Callable[[Path], None]] = {
    "coco": make_coco,
    "lvis": make_lvis,
    "ade20k": make_ade20k,
    "voc": make_voc,
    "objects365": make_objects365,
    "flickr8k": make_flickr8k,
    "flickr30k": make_flickr30k,
}


def problems(name: str, root: Path) -> list[Finding]:
    return [finding for finding in LAYOUTS[name].check(root) if finding.problem]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_complete_set_has_no_problem(tmp_path: Path, name: str) -> None:
    MAKE[name](tmp_path)
    findings = list(LAYOUTS[name].check(tmp_path))
    assert findings and not problems(name, tmp_path), findings


@pytest.mark.parametrize("name", LAYOUTS)
def test_of_an_empty_root_every_part_is_missing_with_its_address(tmp_path: Path, name: str) -> None:
    findings = list(LAYOUTS[name].check(tmp_path))
    assert findings and all("download http" in finding.problem for finding in findings)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_photograph_that_is_gone_is_named(tmp_path: Path, name: str) -> None:
    MAKE[name](tmp_path)
    suffix = "*.png" if name == "ade20k" else "*.jpg"
    gone = sorted(p for p in tmp_path.rglob(suffix) if "2007_000033" not in p.name)[0]
    gone.unlink()
    found = problems(name, tmp_path)
    assert found and all(gone.name in finding.problem for finding in found)
    assert "1 of" in found[0].problem and "http" in found[0].problem


def test_an_empty_file_counts_as_damaged(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "val2017" / "000000000025.jpg").write_bytes(b"")
    assert ["empty" in finding.problem for finding in problems("coco", tmp_path)] == [True, True]


def test_files_of_another_format_are_told_apart(tmp_path: Path) -> None:
    make_coco(tmp_path / "coco")
    make_lvis(tmp_path / "lvis")
    coco, lvis = (
        tmp_path / "coco/annotations/instances_val2017.json",
        tmp_path / "lvis/annotations/lvis_v1_val.json",
    )
    mine, theirs = coco.read_text(), lvis.read_text()
    lvis.write_text(mine)
    coco.write_text(theirs)
    (found,) = problems("lvis", tmp_path / "lvis")
    assert "not a lvis annotation file" in found.problem
    (found,) = problems("coco", tmp_path / "coco")
    assert "not a coco annotation file" in found.problem
    coco.write_text("{")
    (found,) = problems("coco", tmp_path / "coco")
    assert "not a coco annotation file" in found.problem


# ------------------------------------------------------------------ archives


def zipped(folder: Path, archive: Path, prefix: str = "") -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(path, prefix + path.relative_to(folder).as_posix())


def test_archives_in_the_root_are_unpacked_once_and_continue_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, root = tmp_path / "source", tmp_path / "coco"
    make_coco(source)
    root.mkdir()
    for split in ("train2017", "val2017"):
        zipped(source / split, root / f"{split}.zip", f"{split}/")
    zipped(source / "annotations", root / "annotations_trainval2017.zip", "annotations/")
    unpacking = sys.modules[Archive.__module__]
    whole, written = unpacking.atomic_write, []

    def interrupted(path, write):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        whole(path, write)

    monkeypatch.setattr(unpacking, "atomic_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(prepare(LAYOUTS["coco"], root))
    monkeypatch.undo()
    lines = list(prepare(LAYOUTS["coco"], root))
    assert lines[0] == "annotations_trainval2017.zip: 1 files unpacked, 3 were there"
    assert not problems("coco", root)
    assert list(prepare(LAYOUTS["coco"], root)) == []
    assert len(list(prepare(LAYOUTS["coco"], root, force=True))) == 3


def test_a_file_of_another_size_is_kept_and_said_unless_forced(tmp_path: Path) -> None:
    source, root = tmp_path / "source", tmp_path / "coco"
    make_coco(source)
    root.mkdir()
    zipped(source / "val2017", root / "val2017.zip", "val2017/")
    mine = photo(root / "val2017" / "000000000009.jpg")
    mine.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"000000000009\.jpg is not the one.*--force"):
        list(prepare(LAYOUTS["coco"], root))
    assert mine.read_bytes() == b"mine"
    list(prepare(LAYOUTS["coco"], root, force=True))
    assert mine.read_bytes() == PIXEL["JPEG"]


@pytest.mark.parametrize("name", ["../outside.jpg", "val2017/../../outside.jpg", "/outside.jpg"])
def test_nothing_is_written_outside_of_the_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "coco"
    root.mkdir()
    with zipfile.ZipFile(root / "val2017.zip", "w") as file:
        file.writestr(name, b"x")
    with pytest.raises(ValueError, match="outside of"):
        list(prepare(LAYOUTS["coco"], root))
    assert not list(tmp_path.rglob("outside.jpg")) and not Path("/outside.jpg").exists()


def test_links_in_a_tar_are_not_made(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "VOCtrainval_11-May-2012.tar", "w") as file:
        link = tarfile.TarInfo("VOCdevkit/VOC2012/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        file.addfile(link)
    assert list(prepare(LAYOUTS["voc"], tmp_path)) == []
    assert not (tmp_path / "VOC2012").exists()


@pytest.mark.parametrize("archive", ["val2017.zip", "train2017.zip"])
def test_a_damaged_archive_is_named(tmp_path: Path, archive: str) -> None:
    (tmp_path / archive).write_bytes(b"not a zip")
    with pytest.raises(ValueError, match=rf"{archive} is damaged .*download it again"):
        list(prepare(LAYOUTS["coco"], tmp_path))


def test_a_compressed_tar_that_is_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as file:
        for name in ("a", "b", "c"):
            info = tarfile.TarInfo(f"VOCdevkit/VOC2012/{name}.jpg")
            info.size = 3000
            file.addfile(info, io.BytesIO(name.encode() * 3000))
    data = bytearray(inner.getvalue())
    packed = gzip.compress(bytes(data))
    data[3584:4096] = b"x" * 512  # the header of b: tarfile takes it for the end
    damaged = gzip.compress(bytes(data))[:-8] + packed[-8:]  # with the checksum of what it was
    path = tmp_path / "a.tar.gz"
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a\.tar\.gz is damaged .*download it again"):
        unpack(path, tmp_path, Archive("a.tar.gz"))
    path.write_bytes(packed)
    assert unpack(path, tmp_path, Archive("a.tar.gz"), force=True) == (3, 0)


def test_archives_whose_members_lie_elsewhere_are_put_in_place(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_lvis(source)
    make_objects365(source)
    lvis, objects = tmp_path / "lvis", tmp_path / "objects365"
    (objects / "train").mkdir(parents=True)
    lvis.mkdir()
    for split in ("train", "val"):
        with zipfile.ZipFile(lvis / f"lvis_v1_{split}.json.zip", "w") as file:
            name = f"lvis_v1_{split}.json"
            file.write(source / "annotations" / name, name)
    with tarfile.open(objects / "zhiyuan_objv2_train.tar.gz", "w:gz") as file:
        name = "zhiyuan_objv2_train.json"
        file.add(source / "annotations" / name, f"zhiyuan_objv2_train/{name}")
    with tarfile.open(objects / "train" / "patch8.tar.gz", "w:gz") as file:
        file.add(source / "train" / "patch8", "patch8")
    assert len(list(prepare(LAYOUTS["lvis"], lvis))) == 2
    assert len(list(link_coco(lvis, make_photos(tmp_path / "coco")))) == 2
    assert not problems("lvis", lvis) and list(link_coco(lvis, tmp_path / "nowhere")) == []
    list(prepare(LAYOUTS["objects365"], objects))
    assert {f.part for f in problems("objects365", objects)} == {
        "annotations/zhiyuan_objv2_val.json"
    }


def make_photos(coco: Path) -> Path:
    make_coco(coco)
    return coco


def test_linking_needs_the_photographs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder train2017"):
        list(link_coco(tmp_path, tmp_path / "nowhere"))


# ------------------------------------------------------------------ VOC


def test_sbd_masks_become_maps_and_the_list_leaves_out_vocs_own(tmp_path: Path) -> None:
    make_voc(tmp_path, augmented=False)
    assert [f.part for f in problems("voc", tmp_path)] == ["VOC2012/ImageSets/Segmentation/aug.txt"]
    mask = make_sbd(tmp_path)
    assert len(list(prepare(LAYOUTS["voc"], tmp_path))) == 2
    assert not problems("voc", tmp_path)
    listed = voc.names_in(tmp_path / "VOC2012/ImageSets/Segmentation/aug.txt")
    assert listed == ["2008_000002"]
    made = tmp_path / "VOC2012/SegmentationClassAug/2008_000002.png"
    np.testing.assert_array_equal(np.asarray(Image.open(made)), mask)
    made.write_bytes(b"mine")
    assert list(prepare(LAYOUTS["voc"], tmp_path)) == [] and made.read_bytes() == b"mine"
    assert len(list(prepare(LAYOUTS["voc"], tmp_path, force=True))) == 2
    np.testing.assert_array_equal(np.asarray(Image.open(made)), mask)


def test_a_mask_that_is_none_is_named(tmp_path: Path) -> None:
    make_voc(tmp_path, augmented=False)
    make_sbd(tmp_path)
    (tmp_path / "VOCaug/dataset/cls/2008_000002.mat").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"2008_000002\.mat is not one of SBD's masks"):
        list(prepare(LAYOUTS["voc"], tmp_path))


def test_the_real_ade20k_sample_has_this_layout(tmp_path: Path) -> None:
    sample = Path(__file__).parents[3] / "shared" / "data" / "ade20k_sample"
    if not sample.is_dir():
        pytest.skip("no ../shared/data/ade20k_sample beside the checkout")
    (tmp_path / "ADEChallengeData2016").symlink_to(sample.resolve())
    findings = {f.part: f for f in LAYOUTS["ade20k"].check(tmp_path)}
    validation = findings["ADEChallengeData2016/annotations/validation"]
    assert validation.detail == "3 files" and not validation.problem
    assert findings["ADEChallengeData2016/images/training"].problem


def test_the_lists_of_flickr8k_become_caption_files_that_the_configs_read(tmp_path: Path) -> None:
    make_flickr8k(tmp_path)
    train, val = (read_captions(tmp_path / f"captions_{split}.json") for split in ("train", "val"))
    assert [len(train), len(val)] == [2, 1] and not set(train) & set(val)
    assert val["2_aaaaaaaaaa.jpg"] == [f"A dog runs {n} ." for n in range(5)]
    assert (tmp_path / "images" / "2_aaaaaaaaaa.jpg").is_file()
    (tmp_path / "Flickr_8k.devImages.txt").write_text("other.jpg\n")
    with pytest.raises(ValueError, match="names no image"):
        list(prepare(LAYOUTS["flickr8k"], tmp_path, force=True))
