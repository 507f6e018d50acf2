"""Elements and images -> samples of shards, and shards -> JSON lines of other projects."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from itertools import groupby
from pathlib import Path

import torch

from sparc_pretrain.data import image_files, images
from sparc_pretrain.data.captions import BadCaption, stored_captions
from sparc_pretrain.data.element_json import BadElements, Json, stacked
from sparc_pretrain.data.elements import Elements, fitted, parse, to_json, to_odvg, to_xvlm
from sparc_pretrain.data.images import BadImage
from sparc_pretrain.data.shards import Pair, ShardSet


def samples(
    found: Iterable[Elements],
    folder: Path,
    dropped: Counter[str],
    captions: Mapping[str, list[str]] | None = None,
    resize: int | None = None,
    exclude: Collection[str] = (),
) -> Iterator[Pair]:
    """What `write_shards` takes; what cannot be used is counted in `dropped`, with the reason.

    Args:
        folder: of the images. captions: of image names, added to those of the annotations.
        resize: larger images are brought down to this shorter side, and their boxes with them.
        exclude: ids (with or without their prefix) and names of images to leave out.
    """
    folder = folder.resolve()
    used: set[str] = set()
    for one in _joined(found):
        name = one.file if isinstance(one.file, str) else one.image_id or f"image_{len(used)}"
        ids = {one.image_id or "", (one.image_id or "").rpartition("/")[2], name, Path(name).stem}
        if ids & set(exclude):
            dropped["image: excluded"] += 1
            continue
        data = one.file
        if isinstance(data, str):
            path = image_files.find(folder, data, by_last_part=True)
            if path is None:
                dropped["image: missing or outside of the folder"] += 1
                continue
            data = path.read_bytes()
        try:
            size = images.decode(data).shape[-2:]
            data, extension = image_files.stored(data, resize)
            smaller = images.decode(data).shape[-2:] if resize else size
        except BadImage as error:
            dropped[f"image: {error}"] += 1
            continue
        one = _clipped(one, size[1], size[0], dropped)
        one = _scaled(one, smaller[1] / size[1], smaller[0] / size[0])
        texts = [*one.captions, *(captions or {}).get(name, [])]
        one = replace(one, captions=list(dict.fromkeys(texts)))
        if not one.captions and not len(one):
            dropped["image: neither a caption nor a box"] += 1
            continue
        key = image_files.key_of_name(name, used)
        yield key, data, extension, to_json(one, smaller[1], smaller[0])


def counted(pairs: Iterator[Pair], counts: Counter[str]) -> Iterator[Pair]:
    """The same pairs; images, boxes and texts are added up in `counts`."""
    for pair in pairs:
        elems = pair[3]["elems"]
        texts = sum(len(elem.get("text", [])) for elem in elems)
        counts.update(images=1, boxes=len(elems), texts=texts)
        yield pair


def _joined(found: Iterable[Elements]) -> Iterator[Elements]:
    """Neighbours of one image as one: ODVG has a line for phrases and another for classes."""
    for _, parts in groupby(found, lambda one: one.file if isinstance(one.file, str) else id(one)):
        yield reduce(_union, parts, Elements())


def _union(one: Elements, other: Elements) -> Elements:
    """The boxes of both; an equal box has the texts of both, unless its classes differ."""
    rows: dict[tuple, tuple[list[float], list[str], str]] = {}
    for part in (one, other):
        for box, texts, label in zip(part.boxes.tolist(), part.texts, part.labels, strict=True):
            _, said, named = rows.get(tuple(box), (box, [], ""))
            key = (*box, label) if named and label and named != label else tuple(box)
            if key != tuple(box):
                _, said, named = rows.get(key, (box, [], ""))
            rows[key] = (box, list(dict.fromkeys([*said, *texts])), named or label)
    return replace(
        other,
        captions=list(dict.fromkeys([*one.captions, *other.captions])),
        boxes=stacked([box for box, _, _ in rows.values()]),
        texts=[texts for _, texts, _ in rows.values()],
        labels=[label for _, _, label in rows.values()],
    )


def _clipped(one: Elements, width: int, height: int, dropped: Counter[str]) -> Elements:
    """Without the boxes that lie outside of the image."""
    kept = []
    for n in range(len(one)):
        try:
            fitted(Elements(boxes=one.boxes[n : n + 1]), width, height)
            kept.append(n)
        except BadElements:
            dropped["box: outside of the image"] += 1
    inside = replace(
        one,
        boxes=one.boxes[kept],
        texts=[one.texts[n] for n in kept],
        labels=[one.labels[n] for n in kept],
    )
    return fitted(inside, width, height)


def _scaled(one: Elements, across: float, down: float) -> Elements:
    factor = torch.tensor([across, down, across, down], dtype=torch.float64)
    saliency = None if one.saliency is None else one.saliency * factor
    return replace(one, boxes=one.boxes * factor, saliency=saliency)


def lines(
    shards: ShardSet, kind: str, folder: Path, dropped: Counter[str]
) -> Iterator[tuple[str, list[Json]]]:
    """The samples of shards as lines of 'odvg' or 'xvlm'; their images are written to `folder`.

    Yields (file name, its lines).
    """
    for n in range(len(shards)):
        raw = shards.read(n)
        try:
            height, width = images.decode(raw.image).shape[-2:]
            if raw.is_json and raw.text is not None:
                one = parse(raw.text, width, height)
            else:
                one = Elements(captions=stored_captions(raw))
        except (BadImage, BadElements, BadCaption) as error:
            dropped[f"sample: {error}"] += 1
            continue
        form = images.read_size(raw.image)[0]
        name = f"{raw.key.replace('/', '_')}.{image_files.EXTENSION.get(form, form)}"
        (folder / name).write_bytes(raw.image)
        found = to_odvg(one, name, width, height) if kind == "odvg" else [to_xvlm(one, name)]
        if not found:
            dropped["sample: nothing to say in this form"] += 1
        yield name, found


def dump(line: Json) -> str:
    """One JSON line."""
    return json.dumps(line, ensure_ascii=False) + "\n"
