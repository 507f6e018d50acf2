"""Flickr8k and Flickr30k: photographs with five captions each, whatever mirror they are from.

Neither may be passed on here: the photographs belong to their owners on Flickr, the sets are for
research and education.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from sparc_pretrain.data.layouts.finding import Finding, photographs

FLICKR8K_URL = "https://github.com/jbrownlee/Datasets/releases (Flickr8k_Dataset.zip, _text.zip)"
FLICKR30K_URL = "https://shannon.cs.illinois.edu/DenotationGraph (a form), or a mirror with its "
FLICKR30K_URL += "flickr30k-images and results_20130124.token"
SPLITS = {"train": "train", "val": "dev"}  # ours: Flickr's word for it
FOLDERS_8K = ("images", "Flicker8k_Dataset", "Flickr8k_Dataset")  # the archive's own spelling first
FOLDERS_30K = ("images", "flickr30k-images", "flickr30k_images")
CAPTIONS_30K = ("captions.tsv", "results_20130124.token", "dataset_flickr30k.json", "results.csv")


def convert_flickr8k(root: Path, force: bool = False) -> Iterator[str]:
    """`captions_train.json` and `captions_val.json` (COCO's format) of the official lists, and
    `images`, a link to the photographs. Photographs that are not there are left out.

    Raises ValueError for a list that names no caption.
    """
    from sparc_pretrain.data.captions import read_captions  # numpy: not for a command's --help

    yield from _link(root, FOLDERS_8K)
    table, tokens = None, root / "Flickr8k.token.txt"
    for ours, theirs in SPLITS.items():
        out, listed = root / f"captions_{ours}.json", root / f"Flickr_8k.{theirs}Images.txt"
        if (out.exists() and not force) or not (tokens.is_file() and listed.is_file()):
            continue
        table = table or read_captions(tokens)
        names = [n for n in listed.read_text(encoding="utf-8").split() if n in table]
        if not names:
            raise ValueError(f"{listed} names no image of {tokens}")
        images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
        rows = [(image["id"], text) for image in images for text in table[image["file_name"]]]
        captions = [{"id": n, "image_id": i, "caption": t} for n, (i, t) in enumerate(rows)]
        out.write_text(json.dumps({"images": images, "annotations": captions}), encoding="utf-8")
        yield f"{out.name}: {len(images)} images, {len(captions)} captions"


def check_flickr8k(root: Path) -> Iterator[Finding]:
    """data/flickr8k: photographs, and the captions of the official train and dev lists."""
    for split in SPLITS:
        yield from _captioned(root, root / f"captions_{split}.json", FLICKR8K_URL)


def convert_flickr30k(root: Path, force: bool = False) -> Iterator[str]:
    """`images`, a link to the photographs, whatever their archive calls them."""
    yield from _link(root, FOLDERS_30K)


def check_flickr30k(root: Path) -> Iterator[Finding]:
    """data/flickr30k: photographs and one caption file (token, Karpathy's JSON, CSV or TSV)."""
    files = [root / name for name in CAPTIONS_30K if (root / name).is_file()]
    yield from _captioned(root, (files or [root / CAPTIONS_30K[1]])[0], FLICKR30K_URL)


def _link(root: Path, folders: tuple[str, ...]) -> Iterator[str]:
    images = root / folders[0]
    there = next((root / name for name in folders[1:] if (root / name).is_dir()), None)
    if there is not None and not images.exists():
        images.unlink(missing_ok=True)  # a link to a place that is gone
        images.symlink_to(there.name)
        yield f"images: linked to {there.name}"


def _captioned(root: Path, file: Path, url: str) -> Iterator[Finding]:
    from sparc_pretrain.data.captions import read_captions

    if not file.is_file():
        yield Finding(file.name, problem=f"missing: download {url}")
        return
    try:
        table = read_captions(file)
    except ValueError as error:
        yield Finding(file.name, problem=f"{error}: download {url}")
        return
    count = sum(map(len, table.values()))
    yield Finding(file.name, f"{len(table)} images, {count} captions")
    yield photographs(root / "images", list(table), f"images of {file.name}", url)
