"""Downloaded data sets as the configs expect them below their root: what belongs there, where it is
to be had, and what is missing.

Nothing is downloaded. Archives that lie in the root are unpacked (`layouts_unpack`), what other
tools would have to convert is converted (`layouts_voc`, links to COCO's photographs for LVIS).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparc_pretrain.data.layouts import flickr, voc
from sparc_pretrain.data.layouts.finding import Finding, photographs
from sparc_pretrain.data.layouts.unpack import Archive, unpack

COCO_URL = "http://images.cocodataset.org"
LVIS_URL = "https://s3-us-west-2.amazonaws.com/dl.fbaipublicfiles.com/LVIS"
ADE_URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
VOC_URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
OBJECTS_URL = "https://www.objects365.org/download.html"
Json = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """A data set: its archives, what has to be made of them, and how to check it.

    `convert(root, force)` yields a line per thing it made; `check(root)` a finding per part.
    """

    name: str
    check: Callable[[Path], Iterator[Finding]]
    archives: tuple[Archive, ...] = ()
    convert: Callable[[Path, bool], Iterator[str]] = field(default=lambda root, force: iter(()))


def prepare(layout: Layout, root: Path, force: bool = False) -> Iterator[str]:
    """Unpack and convert what is there and not done; a line for each thing done.

    What exists is kept unless `force`; an interrupted preparation continues where it was.

    Raises:
        FileNotFoundError: `root` is no folder. ValueError: an archive that cannot be used.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder: give the one with the downloaded files")
    for archive in layout.archives:
        for path in sorted(root.glob(archive.pattern)):
            made, kept = unpack(path, root, archive, force)
            if made:
                yield f"{path.relative_to(root)}: {made} files unpacked, {kept} were there"
    yield from layout.convert(root, force)


# ------------------------------------------------------------------ parts


def annotatedphotographs(
    root: Path, file: str, folder: str, url: str, images_url: str, kind: str = "coco"
) -> Iterator[Finding]:
    """An annotation file, and the photographs that it names below `folder`."""
    path = root / file
    if not path.is_file():
        yield Finding(file, problem=f"missing: download {url}")
        return
    try:
        content = json.loads(path.read_text("utf-8"))
        images = content["images"]
        names = [_photograph(image, kind) for image in images]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        wrong = f"{type(error).__name__}: {error}"
        yield Finding(file, problem=f"not a {kind} annotation file ({wrong}): download {url}")
        return
    problem = _format_problem(content, kind)
    yield Finding(file, f"{len(images)} images, {len(content['annotations'])} annotations", problem)
    yield photographs(root / folder, names, f"{folder or '.'} of {file}", images_url)


def _photograph(image: Json, kind: str) -> str:
    if kind == "lvis":  # train2017/000000391895.jpg
        return "/".join(image["coco_url"].split("/")[-2:])
    name = image["file_name"]
    # Objects365's archives have patch8/x.jpg where its file says images/v1/patch8/x.jpg
    return "/".join(name.split("/")[-2:]) if kind == "objects365" else name


def _format_problem(content: Json, kind: str) -> str:
    if not isinstance(content.get("annotations"), list):
        return "it has no annotations: it is the file of another split or task"
    categories = content.get("categories")
    if kind == "lvis" and not all("frequency" in row for row in categories or [{}]):
        return "its categories have no frequency: it is not an LVIS file"
    if kind != "lvis" and any("neg_category_ids" in row for row in content["images"][:1]):
        return "its images have neg_category_ids: it is an LVIS file"
    return ""


def _pairs(root: Path, images: str, maps: str, url: str) -> Iterator[Finding]:
    """A folder of photographs and one of maps of the same names."""
    names = sorted(p.stem for p in (root / images).glob("*.jpg"))
    if not names:
        yield Finding(images, problem=f"missing: download {url}")
        return
    yield Finding(images, f"{len(names)} files")
    yield photographs(root / maps, [f"{name}.png" for name in names], maps, url)


# ------------------------------------------------------------------ data sets


def check_coco(root: Path) -> Iterator[Finding]:
    """data/coco: instances and captions of 2017."""
    annotations = f"{COCO_URL}/annotations/annotations_trainval2017.zip"
    for split in ("train2017", "val2017"):
        for task in ("instances", "captions"):
            file = f"annotations/{task}_{split}.json"
            photos = f"{COCO_URL}/zips/{split}.zip"
            yield from annotatedphotographs(root, file, split, annotations, photos)


def check_lvis(root: Path) -> Iterator[Finding]:
    """data/lvis_v1: the annotations of LVIS v1 over COCO's photographs."""
    photos = f"{COCO_URL}/zips/{{train,val}}2017.zip, or give --coco FOLDER"
    for split in ("train", "val"):
        file = f"annotations/lvis_v1_{split}.json"
        url = f"{LVIS_URL}/lvis_v1_{split}.json.zip"
        yield from annotatedphotographs(root, file, "", url, photos, "lvis")


def link_coco(root: Path, coco: Path) -> Iterator[str]:
    """Links to COCO's photograph folders, where the root has none.

    Raises:
        FileNotFoundError: `coco` has none either.
    """
    for split in ("train2017", "val2017"):
        target, link = (coco / split).resolve(), root / split
        if link.exists():
            continue
        if not target.is_dir():
            raise FileNotFoundError(f"{coco} has no folder {split}: give --coco COCO's root")
        link.unlink(missing_ok=True)  # a link to a place that is gone
        link.symlink_to(target)
        yield f"{split}: linked to {target}"


def check_ade20k(root: Path) -> Iterator[Finding]:
    """data/ade: the scene parsing challenge's 150 classes."""
    for split in ("training", "validation"):
        base = "ADEChallengeData2016"
        images, maps = f"{base}/images/{split}", f"{base}/annotations/{split}"
        yield from _pairs(root, images, maps, ADE_URL)


def check_voc(root: Path) -> Iterator[Finding]:
    """data/VOCdevkit: VOC 2012 and its augmented training set."""
    for split in ("train", "val", "aug"):
        file = f"VOC2012/ImageSets/Segmentation/{split}.txt"
        url = voc.SBD_URL if split == "aug" else VOC_URL
        maps = f"VOC2012/SegmentationClass{'Aug' if split == 'aug' else ''}"
        if not (root / file).is_file():
            yield Finding(file, problem=f"missing: download {url}")
            continue
        names = voc.names_in(root / file)
        photos = "VOC2012/JPEGImages"
        part = f"{photos} of {split}.txt"
        yield photographs(root / photos, [f"{n}.jpg" for n in names], part, VOC_URL)
        part = f"{maps} of {split}.txt"
        yield photographs(root / maps, [f"{n}.png" for n in names], part, url)


def check_objects365(root: Path) -> Iterator[Finding]:
    """data/objects365: version 2, photographs in train/patchN and val/patchN."""
    for split in ("train", "val"):
        file = f"annotations/zhiyuan_objv2_{split}.json"
        yield from annotatedphotographs(root, file, split, OBJECTS_URL, OBJECTS_URL, "objects365")


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "coco",
            check_coco,
            (
                Archive("annotations_trainval2017.zip"),
                Archive("train2017.zip"),
                Archive("val2017.zip"),
            ),
        ),
        Layout("lvis", check_lvis, (Archive("lvis_v1_*.json.zip", into="annotations", flat=True),)),
        Layout("ade20k", check_ade20k, (Archive("ADEChallengeData2016.zip"),)),
        Layout(
            "voc",
            check_voc,
            (
                Archive("VOCtrainval_11-May-2012.tar", strip="VOCdevkit"),
                Archive("benchmark.tgz", strip="benchmark_RELEASE", into="VOCaug"),
            ),
            voc.convert,
        ),
        Layout(
            "objects365",
            check_objects365,
            (
                Archive("zhiyuan_objv2_*.tar.gz", into="annotations", flat=True),
                Archive("train/patch*.tar.gz", into="train"),
                Archive("val/patch*.tar.gz", into="val"),
            ),
        ),
        Layout(
            "flickr8k",
            flickr.check_flickr8k,
            (Archive("Flickr8k_Dataset.zip"), Archive("Flickr8k_text.zip")),
            flickr.convert_flickr8k,
        ),
        Layout(
            "flickr30k",
            flickr.check_flickr30k,
            (Archive("flickr30k-images.tar*"), Archive("flickr30k.tar.gz")),
            flickr.convert_flickr30k,
        ),
    )
}
