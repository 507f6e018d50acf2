"""Annotation files with boxes and words -> Elements, image by image: X-VLM's and ODVG's JSON lines,
COCO, Objects365, LVIS, Visual Genome, Flickr30k Entities, the built-in scenes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sparc_pretrain import json_file
from sparc_pretrain.data.box_import.kinds import KINDS, SEVERAL
from sparc_pretrain.data.coco_file import coco_rows
from sparc_pretrain.data.element_json import BadElements, Json, corners_of, stacked
from sparc_pretrain.data.elements import Elements, from_odvg, from_xvlm, parse

LINES = {"xvlm": from_xvlm, "odvg": from_odvg}


def read_boxes(
    kind: str,
    files: Sequence[Path],
    dropped: Counter[str],
    several: str = "skip",
    spoken: Callable[[Sequence[str]], Sequence[str]] = list,
) -> Iterator[Elements]:
    """The images of `files` with their boxes; what is left out is counted in `dropped`.

    Args:
        kind: one of KINDS; Visual Genome takes any of its files, told by their content. several: of
            entities. spoken: category names -> names as people say them (LVIS: "cup_(trophy)").

    Raises:
        FileNotFoundError. ValueError naming the file, and the line or entry: another kind of file.
    """
    if kind not in KINDS or several not in SEVERAL:
        raise ValueError(f"kind {kind!r}, several {several!r}: use one of {KINDS}, {SEVERAL}")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no annotation file {file}")
    if kind in LINES:
        yield from _lines(files, LINES[kind], dropped)
    elif kind == "vg":
        yield from _visual_genome(files, dropped)
    else:
        for file in files:
            data = json_file.read(file)
            try:
                if kind in ("entities", "scenes"):
                    yield from _records(data, file, kind, dropped, several)
                else:
                    yield from _instances(data, file, kind, dropped, spoken)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                why = f"it has no {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{file} is not a file of kind {kind}: {why}") from None


def _lines(
    files: Sequence[Path], read: Callable[[str], Elements], dropped: Counter[str]
) -> Iterator[Elements]:
    for file in files:
        good = 0
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    found = read(line)
                except BadElements as error:
                    if not good and number == 1:  # the file is of another kind
                        raise ValueError(f"{file}, line 1: {error}") from None
                    dropped[f"line: {error}"] += 1
                    continue
                good += 1
                yield found


def _instances(
    data: Json,
    file: Path,
    kind: str,
    dropped: Counter[str],
    spoken: Callable[[Sequence[str]], Sequence[str]],
) -> Iterator[Elements]:
    """COCO's form. Crowds and boxes without area are left out; tags are the names, largest box
    first, which `Elements.tag_list` makes.
    """
    listed = coco_rows(data, file, boxes=False)
    categories = listed.categories
    names = dict(
        zip((c["id"] for c in categories), spoken([c["name"] for c in categories]), strict=True)
    )
    of_image: dict[Any, list[Json]] = {}
    for annotation in listed.annotations:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    prefix = "coco" if kind == "lvis" else kind  # LVIS's images are COCO's, and their ids
    for image in listed.images:
        boxes, labels = [], []
        for annotation in of_image.get(image["id"], []):
            if annotation.get("iscrowd"):
                dropped["box: crowd"] += 1
                continue
            try:
                boxes.append(corners_of(annotation["bbox"], "box"))
            except BadElements as error:
                dropped[f"box: {str(error).rpartition(', ')[2]}"] += 1
                continue
            labels.append(names[annotation["category_id"]])
        url = str(image.get("coco_url") or "")
        yield Elements(
            file=image.get("file_name") or "/".join(url.split("/")[-2:]),
            boxes=stacked(boxes),
            texts=[[label] for label in labels],
            labels=labels,
            image_id=f"{prefix}/{image['id']}",
        )


def _visual_genome(files: Sequence[Path], dropped: Counter[str]) -> Iterator[Elements]:
    """Region phrases, object names, attributes with names, joined by image."""
    rows: dict[int, list[tuple[Any, list[str], str]]] = {}
    known: dict[int, Json] = {}
    for file in files:
        data = json_file.read(file)
        try:
            for entry in data:
                image = int(entry["image_id"] if "image_id" in entry else entry["id"])
                if "url" in entry and "width" in entry:  # image_data.json
                    known[image] = entry
                    continue
                rows.setdefault(image, []).extend(_genome_boxes(entry))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{file} is none of Visual Genome's region_descriptions.json, objects.json, "
                f"attributes.json, image_data.json ({error})"
            ) from None
    for image, found in rows.items():
        boxes, texts, labels = [], [], []
        for box, said, label in found:
            try:
                boxes.append(corners_of(box, "box"))
            except BadElements as error:
                dropped[f"box: {str(error).rpartition(', ')[2]}"] += 1
                continue
            texts.append([one.strip() for one in said if one.strip()])
            labels.append(label)
        coco = known.get(image, {}).get("coco_id")
        yield Elements(
            file=f"{image}.jpg",
            boxes=stacked(boxes),
            texts=texts,
            labels=labels,
            image_id=f"vg/{image}" if coco is None else f"coco/{coco}",
        )


def _genome_boxes(entry: Json) -> Iterator[tuple[list[float], list[str], str]]:
    for region in entry.get("regions", []):
        box = [region[key] for key in ("x", "y", "width", "height")]
        yield box, [region["phrase"]], ""
    for thing in [*entry.get("objects", []), *entry.get("attributes", [])]:
        names, kinds = thing["names"], thing.get("attributes") or []
        said = [f"{kind} {name}" for kind in kinds for name in names] or names
        yield [thing[key] for key in ("x", "y", "w", "h")], said, names[0] if names else ""


def _records(
    data: list[Json], file: Path, kind: str, dropped: Counter[str], several: str
) -> Iterator[Elements]:
    """Flickr30k Entities as JSON (see `zeroshot`'s phrase files), or the scenes' own elements."""
    for record in data:
        if kind == "scenes":
            raw = json.dumps(record["sample"]).encode()
            found = parse(raw, record["sample"]["width"], record["sample"]["height"])
            yield _named(found, record["file_name"])
            continue
        said: dict[str, list[str]] = {}
        for sentence in record["sentences"]:
            for phrase in sentence["phrases"]:
                start, end = phrase["span"]
                text = sentence["text"][start:end].strip()
                own = said.setdefault(str(phrase["chain"]), [])
                if text and text.lower() not in (one.lower() for one in own):
                    own.append(text)
        boxes, texts = [], []
        for chain, own in said.items():
            rows = record["boxes"].get(chain) or []
            if not rows:
                dropped["phrase: no box"] += len(own)
                continue
            corners = [corners_of(row, "box") for row in rows]
            if len(corners) > 1 and several == "skip":
                dropped["phrase: several boxes"] += len(own)
                continue
            if several == "union":
                table = torch.tensor(corners)
                low, high = table[:, :2].amin(dim=0), table[:, 2:].amax(dim=0)
                corners = [torch.cat([low, high]).tolist()]
            boxes += corners
            texts += [own] * len(corners)
        yield Elements(
            file=record["file_name"],
            captions=[sentence["text"].strip() for sentence in record["sentences"]],
            boxes=stacked(boxes),
            texts=texts,
            labels=[""] * len(boxes),
            image_id=f"flickr/{Path(record['file_name']).stem}",
        )


def _named(found: Elements, file: str) -> Elements:
    return Elements(**{**vars(found), "file": file})
