"""Elements: boxes of an image with texts and a class, as stored in a shard's ``.json`` member and
in the JSON lines of X-VLM and ODVG.

    {"captions": [...], "width": W, "height": H, "image_id": "coco/139", "product_id": "sku-7",
     "tags": ["dog"], "saliency": [x, y, w, h],
     "elems": [{"box": [x, y, w, h], "text": ["a brown dog", "dog"], "label": "dog"}]}

Stored boxes are x y w h in pixels of the stored image; all but ``elems`` may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sparc_pretrain import chance
from sparc_pretrain.data.element_json import (
    BadElements,
    Json,
    corners_of,
    json_object,
    list_of,
    name_of,
    picture_of,
    stacked,
    stored,
    texts_of,
)


@dataclass(frozen=True)
class Elements:
    """One image's boxes. Lists have one entry per box.

    file: name of the image, or its bytes; '' for a sample of a shard. captions: of the whole image.
    boxes: [N,4] float64, x0 y0 x1 y1 in pixels. texts: of each box, possibly none. labels: class
    names, '' for none. tags: of the image, in order. image_id, product_id: None = not said.
    saliency: [4] as a box, None = not said.
    """

    file: str | bytes = ""
    captions: list[str] = field(default_factory=list)
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4, dtype=torch.float64))
    texts: list[list[str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    image_id: str | None = None
    product_id: str | None = None
    saliency: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def tag_list(self) -> list[str]:
        """The tags; where none are stored, the class names, largest box first."""
        if self.tags:
            return self.tags
        area = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(dim=1)
        order = area.argsort(descending=True, stable=True).tolist()
        return [self.labels[i] for i in order if self.labels[i]]


def text_key(text: str) -> int:
    """A number that equal texts share: `chance.key_of` in lower case with single blanks."""
    return chance.key_of(" ".join(text.lower().split()))


# ------------------------------------------------------------------- a shard's member


def parse(raw: bytes, width: int, height: int) -> Elements:
    """The ``.json`` member of a sample whose image has `width` x `height` pixels; boxes are clipped
    to it.

    Raises BadElements with the reason, short and without names of files: it is no such object, the
    boxes are of another image size, or a box is unusable (which one is said).
    """
    data = json_object(raw)
    size = [data.get("width", width), data.get("height", height)]
    if size != [width, height]:
        raise BadElements(f"boxes are of {size[0]} x {size[1]}, the image has {width} x {height}")
    elems = list_of(data, "elems")
    boxes = [corners_of(elem.get("box"), f"box {n}") for n, elem in enumerate(elems)]
    saliency = data.get("saliency")
    found = Elements(
        captions=texts_of(data.get("captions") or data.get("caption"), "captions"),
        boxes=stacked(boxes),
        texts=[texts_of(elem.get("text"), f"text {n}") for n, elem in enumerate(elems)],
        labels=[str(elem.get("label") or "") for elem in elems],
        tags=texts_of(data.get("tags"), "tags"),
        image_id=name_of(data.get("image_id")),
        product_id=name_of(data.get("product_id")),
        saliency=None if saliency is None else stacked([corners_of(saliency, "saliency")])[0],
    )
    return fitted(found, width, height)


def fitted(found: Elements, width: int, height: int) -> Elements:
    """The same with its boxes clipped to an image of this size.

    Raises BadElements naming the box of which nothing is left.
    """
    if not len(found) and found.saliency is None:
        return found
    saliency = found.saliency if found.saliency is not None else torch.zeros(0, 4)
    every = torch.cat([found.boxes, saliency.reshape(-1, 4).double()])
    most = torch.tensor([width, height, width, height], dtype=torch.float64)
    clipped = torch.minimum(every.clamp(min=0), most)
    for n, box in enumerate(clipped.tolist()):
        if not (box[2] > box[0] and box[3] > box[1]):
            name = f"box {n}" if n < len(found) else "saliency"
            raise BadElements(f"{name} lies outside of the image of {width} x {height}")
    if found.saliency is not None:
        saliency = clipped[-1]
    return replace(
        found,
        boxes=clipped[: len(found)],
        saliency=None if found.saliency is None else saliency,
    )


def to_json(found: Elements, width: int, height: int) -> Json:
    """What `parse` reads, of an image of this size."""
    boxes = [stored(box) for box in found.boxes.tolist()]
    elems = []
    for box, texts, label in zip(boxes, found.texts, found.labels, strict=True):
        said = {"text": texts, "label": label}
        elems.append({"box": box} | {key: value for key, value in said.items() if value})
    data: Json = {"captions": found.captions, "width": width, "height": height}
    data |= {"image_id": found.image_id, "product_id": found.product_id, "tags": found.tags}
    if found.saliency is not None:
        data["saliency"] = stored(found.saliency.tolist())
    return {key: value for key, value in data.items() if value} | {"elems": elems}


def said_in(raw: bytes) -> list[str]:
    """Every text of a stored ``.json`` member: captions, those of its boxes, tags.

    Raises BadElements when it cannot be read.
    """
    data = json_object(raw)
    said = texts_of(data.get("captions") or data.get("caption"), "captions")
    for elem in list_of(data, "elems"):
        said += texts_of(elem.get("text"), "text")
    return said + texts_of(data.get("tags"), "tags")


# ------------------------------------------------------------------- JSON lines of others


def from_xvlm(line: str | bytes | Json) -> Elements:
    """A line of X-VLM's region data: `elems` with `bb` (x y w h), `caption` and `attributes`, every
    combination of which is a text; the image is `binary` (base64), or a path in `image`.

    Raises BadElements with the reason.
    """
    data = json_object(line)
    elems = list_of(data, "elems")
    texts = []
    for n, elem in enumerate(elems):
        said = texts_of(elem.get("caption"), f"caption {n}")
        kinds = texts_of(elem.get("attributes"), f"attributes {n}")
        texts.append([f"{kind} {one}" for kind in kinds for one in said] if kinds else said)
    return Elements(
        file=picture_of(data),
        captions=texts_of(data.get("caption"), "caption"),
        boxes=stacked([corners_of(elem.get("bb"), f"box {n}") for n, elem in enumerate(elems)]),
        texts=texts,
        labels=[str(elem.get("label") or "") for elem in elems],
        image_id=name_of(data.get("image_id")),
    )


def from_odvg(line: str | bytes | Json) -> Elements:
    """A line of ODVG (Grounding DINO's and MMDetection's training data): `grounding` with a caption
    and regions (`phrase`, one or several `bbox`), or `detection` with instances (`category`). Boxes
    are x0 y0 x1 y1; a phrase of several is one element per box.

    Raises BadElements with the reason.
    """
    data = json_object(line)
    grounding, detection = data.get("grounding") or {}, data.get("detection") or {}
    rows: list[tuple[Any, list[str], str]] = []
    for n, region in enumerate(list_of(grounding, "regions")):
        boxes = region.get("bbox")
        several = isinstance(boxes, list) and bool(boxes) and isinstance(boxes[0], list)
        phrase = texts_of(region.get("phrase"), f"phrase {n}")
        rows += [(box, phrase, "") for box in (boxes if several else [boxes])]
    for instance in list_of(detection, "instances"):
        category = str(instance.get("category") or "")
        rows.append((instance.get("bbox"), [category] if category else [], category))
    name = data.get("filename") or data.get("file_name")
    if not isinstance(name, str):
        raise BadElements("no filename")
    return Elements(
        file=name,
        captions=texts_of(grounding.get("caption"), "caption"),
        boxes=stacked([corners_of(box, f"box {n}", "xyxy") for n, (box, _, _) in enumerate(rows)]),
        texts=[texts for _, texts, _ in rows],
        labels=[label for _, _, label in rows],
    )


def to_xvlm(found: Elements, file: str) -> Json:
    """The line that `from_xvlm` reads, of boxes that have texts."""
    line: Json = {"image": file, "caption": found.captions, "image_id": found.image_id}
    elems = [
        {"bb": stored(box), "caption": texts} | ({"label": label} if label else {})
        for box, texts, label in zip(found.boxes.tolist(), found.texts, found.labels, strict=True)
        if texts
    ]
    return {key: value for key, value in line.items() if value} | {"elems": elems}


def to_odvg(found: Elements, file: str, width: int, height: int) -> list[Json]:
    """The lines that `from_odvg` reads: a grounding line with every text of every box, and, where
    there are class names, a detection line.
    """
    head = {"filename": file, "width": width, "height": height}
    boxes = found.boxes.tolist()
    rows = list(zip(boxes, found.texts, found.labels, strict=True))
    by_phrase: dict[str, list[list[float]]] = {}
    for box, texts, _ in rows:
        for text in texts:
            by_phrase.setdefault(text, []).append(box)
    regions = [
        {"phrase": phrase, "bbox": own[0] if len(own) == 1 else own}
        for phrase, own in by_phrase.items()
    ]
    lines: list[Json] = []
    if regions:
        caption = found.captions[0] if found.captions else ""
        lines.append({**head, "grounding": {"caption": caption, "regions": regions}})
    instances = [{"bbox": box, "category": label} for box, _, label in rows if label]
    if instances:
        lines.append({**head, "detection": {"instances": instances}})
    return lines
