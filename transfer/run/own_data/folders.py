"""Where a person's data lie below one folder: annotation files, photographs, label maps, classes.

Nothing is asked that the folder says itself. Known are COCO's layout (annotations/ and train2017/),
Roboflow's (train/_annotations.coco.json), ADE20K's (images/training, annotations/training) and
whatever has "train" and "val" in its names.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sparc_pretrain import json_file
from sparc_pretrain.data.coco_file import CocoFile, coco_rows

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
DEPTH = 3  # folders below the one that is given
MAPS = ("annotations", "labels", "masks", "ann_dir", "semseg")  # names of folders of label maps
PHOTOS = ("images", "img_dir", "imgs")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
READ = 2000  # maps that are looked at for the number of classes
IGNORED = 255
Told = dict[str, str | list[str]]


@dataclass(frozen=True)
class Split:
    """Photographs and what is known of them; paths are relative to the folder.

    annotations: a COCO file, or the folder of label maps. count: photographs. classes: names in
    the order of their labels. suffixes: of photographs and maps, where files are matched by name.
    """

    annotations: str
    images: str
    count: int
    classes: tuple[str, ...]
    suffixes: tuple[str, str] = ("", "")


def boxes(root: Path, told: Told) -> dict[str, Split]:
    """The splits `train` and `val` of boxes or masks in COCO's format. Classes are the file's
    categories that are annotated in the training file.

    Args:
        told: where not to look but to take it: `train`, `val` (files), `images` (a folder).

    Raises:
        FileNotFoundError: no folder, file or photograph; ValueError: more than one file that may
            be meant, or a file of another kind. Both say what to write.
    """
    files = {split: _file(root, split, told) for split in SPLITS}
    found = {split: coco_rows(json_file.read(path), path) for split, path in files.items()}
    used = {row["category_id"] for row in found["train"].annotations}
    classes = tuple(row["name"] for row in found["train"].categories if row["id"] in used)
    if not classes:
        raise ValueError(f"{files['train']} has no annotations: nothing to learn")
    return {
        split: Split(
            str(files[split].relative_to(root)),
            _photos(root, coco, told.get("images")),
            len(coco.images),
            classes,
        )
        for split, coco in found.items()
    }


def _file(root: Path, split: str, told: Told) -> Path:
    """The annotation file of a split."""
    if not root.is_dir():
        raise FileNotFoundError(f"--data {root}: no such folder")
    if name := told.get(split):
        if not (root / str(name)).is_file():
            raise FileNotFoundError(f"own_data.{split}: no file {root / str(name)}")
        return root / str(name)
    files = sorted(p for p in _walk(root) if p.suffix == ".json")
    if split == "val" and (train := told.get("train")):  # the one called as the other
        twins = [re.sub(r"train(ing)?", word, str(train)) for word in SPLITS["val"]]
        files = [root / twin for twin in twins if (root / twin).is_file()] or files
    named = [p for p in files if _split_of(p.relative_to(root)) == split]
    named = [p for p in named if len(named) == 1 or _holds_boxes(p)]
    if len(named) == 1:
        return named[0]
    if not named:
        raise FileNotFoundError(
            f"{root} holds no COCO file of boxes with {' or '.join(SPLITS[split])} in its name: "
            f"say which with --cfg-options own_data.{split}=FILE"
        )
    listed = ", ".join(str(p.relative_to(root)) for p in named[:6])
    raise ValueError(
        f"{root} holds {len(named)} files that may be meant by {split} ({listed}): say which with "
        f"--cfg-options own_data.{split}=FILE"
    )


def _walk(root: Path) -> Iterator[Path]:
    """Files below `root`, not deeper than `DEPTH`."""
    for place, folders, files in os.walk(root, followlinks=True):
        if len(Path(place).relative_to(root).parts) >= DEPTH:
            folders.clear()
        folders.sort()
        yield from (Path(place) / name for name in files if not name.startswith("."))


def _split_of(path: Path) -> str | None:
    """The split that a path is named after: by the file's name, else by its folders."""
    for part in reversed(path.parts):
        words = set(re.findall(r"[a-z]+", part.lower()))
        for split, names in SPLITS.items():
            if words & set(names):
                return split
    return None


def _holds_boxes(path: Path) -> bool:
    content = json_file.read(path)
    rows = content.get("annotations") if isinstance(content, dict) else None
    # COCO's own format: LVIS-like files list what is not there, panoptic ones segments
    plain = isinstance(rows, list) and rows and isinstance(rows[0], dict) and "bbox" in rows[0]
    return bool(plain and content.get("categories"))


def _photos(root: Path, coco: CocoFile, told: str | list[str] | None) -> str:
    """The folder, relative to `root`, below which a file's photographs lie."""
    if not coco.images:
        raise ValueError(f"{coco.path} lists no images")
    if lacking := next((row for row in coco.images if not row.get("file_name")), None):
        raise ValueError(f"{coco.path}: image {lacking['id']!r} has no file_name")
    names = [coco.images[i]["file_name"] for i in (0, -1)]
    if told:
        folders = [root / str(told)]
    else:
        below = {path.parent for path in _walk(root)}
        first = [coco.path.parent, root / "images", root]
        # of two copies, that of the annotation file's own split
        own = _split_of(coco.path.relative_to(root))
        alike = sorted(below, key=lambda p: (_split_of(p.relative_to(root)) != own, len(p.parts)))
        folders = [*first, *alike]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            return str(folder.relative_to(root))
    where = folders[0] if told else f"any folder of {root}"
    raise FileNotFoundError(
        f"{coco.path} lists {names[0]!r}, which is not in {where}: say where the photographs are "
        "with --cfg-options own_data.images=FOLDER"
    )


def maps(root: Path, told: Told, shifted: bool = False) -> dict[str, Split]:
    """The splits `train` and `val` of photographs with label maps: PNGs of the number of a class in
    each pixel, 255 = unlabelled. Classes are named by `classes.txt` (a name a line) or
    `classes.json` in the folder; without one they are counted in the maps.

    Args:
        told: `train`, `val`: [photographs' folder, maps' folder]. shifted: 0 is unlabelled and
            classes begin with 1 (ADE20K's).

    Raises: as `boxes`.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--data {root}: no such folder")
    places = {split: _map_folders(root, split, told) for split in SPLITS}
    classes = _names(root) or _counted(root / places["train"][1], shifted)
    found = {}
    for split, (photos, labels) in places.items():
        count, suffixes = _suffixes(root / photos, root / labels)
        found[split] = Split(labels, photos, count, classes, suffixes)
    return found


def _map_folders(root: Path, split: str, told: Told) -> tuple[str, str]:
    if given := told.get(split):
        if isinstance(given, str) or len(given) != 2:
            raise ValueError(f"own_data.{split}: give PHOTOGRAPHS,MAPS (two folders), not {given}")
        for name in given:
            if not (root / name).is_dir():
                raise FileNotFoundError(f"own_data.{split}: no folder {root / name}")
        return given[0], given[1]
    for word, photo, label in itertools.product(SPLITS[split], PHOTOS, MAPS):
        for pair in (
            (f"{photo}/{word}", f"{label}/{word}"),
            (f"{word}/{photo}", f"{word}/{label}"),
        ):
            if all((root / name).is_dir() for name in pair):
                return pair
    raise FileNotFoundError(
        f"{root} holds no folders such as images/{split} and annotations/{split}: say which with "
        f"--cfg-options own_data.{split}=PHOTOGRAPHS,MAPS"
    )


def _suffixes(photos: Path, labels: Path) -> tuple[int, tuple[str, str]]:
    """How many photographs there are, their suffix, and what stands for it in their maps' names."""
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in SUFFIXES)
    kinds = Counter(p.suffix for p in files)
    if len(kinds) != 1:
        raise ValueError(
            f"{photos} holds photographs of {len(kinds)} endings ({dict(kinds)}): make them one"
        )
    first = files[0].relative_to(photos).with_suffix("")
    ends = [
        p.name.removeprefix(first.name)
        for p in (labels / first.parent).glob(f"{first.name}*")
        if p.suffix.lower() in (".png", ".bmp", ".tif", ".tiff")
    ]
    if not ends:
        raise FileNotFoundError(f"{files[0]} has no label map {labels / first}.png")
    ending = min(ends, key=len)
    bare = [p for p in files if not (labels / f"{_stem(p, photos)}{ending}").is_file()]
    if bare:
        raise FileNotFoundError(
            f"{len(bare)} of {len(files)} photographs have no label map, the first is {bare[0]} "
            f"(wanted {labels / f'{_stem(bare[0], photos)}{ending}'})"
        )
    return len(files), (next(iter(kinds)), ending)


def _stem(path: Path, root: Path) -> Path:
    return path.relative_to(root).with_suffix("")


def _names(root: Path) -> tuple[str, ...]:
    """Class names that the folder says."""
    if (root / "classes.txt").is_file():
        lines = (root / "classes.txt").read_text(encoding="utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    if not (root / "classes.json").is_file():
        return ()
    found = json_file.read(root / "classes.json")
    found = found.get("classes") if isinstance(found, dict) else found
    names = [row.get("name") if isinstance(row, dict) else row for row in found or []]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{root / 'classes.json'} is no list of names")
    return tuple(names)


def _counted(labels: Path, shifted: bool) -> tuple[str, ...]:
    """`class 0`, `class 1` ...: as many as the maps hold."""
    files = sorted(labels.rglob("*.png"))
    if not files:
        raise FileNotFoundError(f"{labels} holds no label maps (*.png)")
    highest = -1
    for i in np.linspace(0, len(files) - 1, min(READ, len(files))).astype(int):
        with Image.open(files[i]) as image:
            found = np.asarray(image)
        if found.ndim != 2:
            raise ValueError(f"{files[i]} is a colour picture: a label map has one number a pixel")
        found = found[found != IGNORED]
        highest = max(highest, int(found.max()) if found.size else -1)
    if highest < shifted:
        raise ValueError(f"{labels}: the maps hold no label")
    return tuple(f"class {i}" for i in range(1 if shifted else 0, highest + 1))
