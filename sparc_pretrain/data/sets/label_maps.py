"""Images with label maps (PNG) in ADE20K's layout, and how data sets number their classes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sparc_pretrain import json_file
from sparc_pretrain.data import png
from sparc_pretrain.data.image_folder import image_files, is_hidden
from sparc_pretrain.data.sets.conventions import CONVENTIONS, Convention

IGNORE = 255


@dataclass(frozen=True)
class LabelledMaps:
    """Image files, their label maps (PNG) and the class names, in the order of the labels."""

    files: list[Path]
    maps: list[Path]
    classes: list[str]
    convention: Convention


def read_maps(
    images: str | Path,
    annotations: str | Path,
    classes: Sequence[str],
    convention: str = "ade",
    split: str | Path | None = None,
) -> LabelledMaps:
    """ADE20K's layout: every ANNOTATIONS/x.png with the image IMAGES/x.jpg (png, gif, webp).

    Args:
        classes: names in the order of the labels; that of a background may be left out.
        convention: a name in CONVENTIONS.
        split: a list of the x to take, one per line, where one folder holds several splits (VOC's
            ImageSets/Segmentation/val.txt).

    Raises:
        FileNotFoundError: a folder, list, map or image that is missing. ValueError: an unknown
            convention, a map that is no file, another number of classes than the convention has, or
            two images of one map.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention {convention!r}: use one of {', '.join(CONVENTIONS)}")
    rule = CONVENTIONS[convention]
    classes = list(classes)
    if rule.background and classes[0].lower() not in ("background", "other"):
        classes = ["background", *classes]
    if rule.classes and len(classes) != rule.classes:
        raise ValueError(f"{convention} has {rule.classes} classes, not {len(classes)}")
    for folder in (Path(images), Path(annotations)):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
    maps = {
        file.name.removesuffix(rule.suffix): file
        for file in sorted(Path(annotations).glob(f"*{rule.suffix}"))
        if not is_hidden(file, Path(annotations))
    }
    for file in maps.values():
        if not file.is_file():  # a pipe would be waited for
            raise ValueError(f"{file} is no file")
    candidates = _candidates(Path(images), set(maps.values()))
    if split is not None:
        maps = {name: _listed(maps, name, split) for name in _names(Path(split))}
    if not maps:
        raise FileNotFoundError(f"{annotations} holds no label maps (*{rule.suffix})")
    for name, file in maps.items():
        found = candidates.get(name, [])
        if not found:
            raise FileNotFoundError(f"{file} has no image {name}.* in {images}")
        if len(found) > 1:
            names = " and ".join(one.name for one in found)
            raise ValueError(f"{file} may be the map of {names} in {images}: keep one of them")
    files = [candidates[name][0] for name in maps]
    return LabelledMaps(files, list(maps.values()), classes, rule)


def _candidates(images: Path, maps: set[Path]) -> dict[str, list[Path]]:
    """The images by name without suffix; a map is none, also where both lie in one folder."""
    taken = {file.resolve() for file in maps}
    found: dict[str, list[Path]] = {}
    for file in image_files(images, below=False)[0]:
        if file.resolve() not in taken:
            found.setdefault(file.stem, []).append(file)
    return found


def _names(split: Path) -> list[str]:
    lines = json_file.read_text(split, what="list").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _listed(maps: dict[str, Path], name: str, split: str | Path) -> Path:
    if name not in maps:
        raise FileNotFoundError(f"there is no label map of {name}, which {split} names")
    return maps[name]


def read_map(file: Path, convention: Convention, classes: int) -> Tensor:
    """A label map as [H,W] long: 0 to classes-1, and IGNORE.

    Raises ValueError for a map that is damaged or in colours, or with a label that is no class.
    """
    data = file.read_bytes()
    png.check(data, file)  # PIL fills missing rows with label 0
    with Image.open(io.BytesIO(data)) as picture:
        if picture.mode not in ("L", "P", "I", "I;16"):
            raise ValueError(f"{file} is a picture in {picture.mode}, not a map of class numbers")
        label = torch.from_numpy(np.array(picture).astype(np.int64))
    if convention.reduce_zero_label:
        label = torch.where((label == 0) | (label == IGNORE), IGNORE, label - 1)
    wrong = label[(label != IGNORE) & (label >= classes)]
    if wrong.numel():
        raise ValueError(
            f"{file} has the label {wrong.max().item()} (after --convention), but there are "
            f"{classes} classes"
        )
    return label
