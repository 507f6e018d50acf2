"""What an objective needs of the samples beside image and caption: asked for in the config, and
there in the shards, before anything is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config

from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.data import images
from sparc_pretrain.data.captions import BadCaption
from sparc_pretrain.data.element_json import BadElements, Json, json_object, list_of
from sparc_pretrain.data.fields import Fields
from sparc_pretrain.data.region_files import RegionFiles
from sparc_pretrain.data.shards import ShardSet, read_in_turn
from sparc_pretrain.distributed import barrier, rank
from sparc_pretrain.registry import OBJECTIVES

LOOK = 64  # samples of each source
FILES = 8  # of which vectors are read
WIDTH = 2048  # of region vectors, unless the objective says another
LABELLED = 20_000  # samples of each source in which class names are looked for
LABELS = "labels.json"
# need -> (key of data.fields, what it is, the paper's number, what a stored sample has)
NEEDS = {
    "concepts": ("concepts", "boxes with texts", "5", "'elems' with 'text' and 'box'"),
    "tags": ("tags", "tags", "20", "'tags', or 'elems' with 'label'"),
    "regions": ("regions", "boxes", "36", "'elems' with 'box'"),
    "label": ("regions", "boxes with class names", "36", "'elems' with 'label' and 'box'"),
    "saliency": ("saliency", "the box of what the picture is about", "True", "'saliency'"),
    "product_id": ("saliency", "names of products", "True", "'product_id'"),
}
# what files of region vectors bring, whatever the shards have
OF_FILES = ("region_state", "region_probs")
COMMAND = "python tools/data.py boxes --kind KIND --images DIR --annotations FILE.. --out DIR"


def needs_of(objective: dict[str, Any]) -> tuple[str, ...]:
    """What the objective of a config needs."""
    kind = OBJECTIVES.get(objective["type"])
    return kind.needs_of(objective) if kind else ()


def check(objective: dict[str, Any], fields: Fields | None, sources: Sequence[Json]) -> list[str]:
    """Lines for the log: what the first samples of each source have.

    Raises ValueError when `data.fields` does not ask for what the objective needs, or no source has
    it.
    """
    lines: list[str] = []
    looked: list[list[Json]] | None = None
    for need in needs_of(objective):
        if need in OF_FILES and (fields is None or not fields.region_files):
            raise ValueError(
                f"objective {objective['type']} with regions='files' needs vectors of regions: set "
                "data.fields.region_files=dict(kind='npz', path=FOLDER, width=2048)"
            )
        if need == "region_state":
            _vectors(objective, fields, sources)
        of_files = need == "regions" and fields is not None and fields.region_files
        if need not in NEEDS or (of_files and fields.regions):
            continue
        key, what, usual, stored = NEEDS[need]
        if fields is None or not getattr(fields, key):
            raise ValueError(
                f"objective {objective['type']} needs {need} ({what}): set data.fields.{key}, "
                f"{usual} in the paper"
            )
        looked = [_first(source) for source in sources] if looked is None else looked
        share = [sum(_has(sample, need) for sample in first) / len(first) for first in looked]
        gridded = need == "regions" and fields.without_boxes == "grid"
        if gridded and min(share) < 1:
            lines.append("images without boxes have 4 x 4 cells as regions")
        if not any(share) and not gridded:
            raise ValueError(
                f"{objective['type']} needs {stored}: {sources[0]['shards']} has none in its first "
                f"{LOOK} samples; make tars with: {COMMAND}"
            )
        weights = [float(source.get("weight", 1.0)) for source in sources]
        for source, part in zip(sources, share, strict=True):
            name = source.get("name") or source["shards"]
            lines.append(f"{name}: {100 * part:.0f} % of the first samples have {stored}")
        boxed = sum(w for w, part in zip(weights, share, strict=True) if part) / sum(weights)
        lines.append(f"{100 * boxed:.0f} % of the batches come from a source with {need}")
    if looked:
        lines += _too_many(fields, [sample for first in looked for sample in first])
    return lines


def _too_many(fields: Fields, samples: Sequence[Json]) -> list[str]:
    """What of the first samples is more than the fields ask for."""
    boxes = max(len(list_of(sample, "elems")) for sample in samples)
    tags = max(len(_tags(sample)) for sample in samples)
    found = (
        (fields.concepts, boxes, f"boxes: {fields.concepts} are drawn each time"),
        (fields.regions, boxes, f"boxes: the first {fields.regions} are regions"),
        (fields.tags, tags, f"words of tags: their first {fields.tags} tokens are kept"),
    )
    more = [(there, what) for asked, there, what in found if 0 < asked < there]
    return [f"images have up to {there} {what}" for there, what in more]


def _tags(sample: Json) -> list[str]:
    """Words of what stands for the tags of a sample."""
    named = [str(elem.get("label") or "") for elem in list_of(sample, "elems")]
    tags = sample.get("tags") or named
    return " ".join(map(str, tags if isinstance(tags, list) else [tags])).split()


def _vectors(objective: Json, fields: Fields, sources: Sequence[Json]) -> None:
    """Raises ValueError where vectors of files are of another width than the objective's, or those
    of a source's first images cannot be used.
    """
    files = RegionFiles.of(fields.region_files)
    width = objective.get("region_width", WIDTH)
    if width != files.width:
        raise ValueError(
            f"model.objective.region_width is {width}, data.fields.region_files.width "
            f"{files.width}: they are one number, that of the files"
        )
    for source in sources:
        shards, reasons = ShardSet(source["shards"]), []
        for n in range(min(FILES, len(shards))):
            try:
                raw = shards.read(n)
                member = json_object(raw.text) if raw.is_json and raw.text else {}
                size = images.decode(raw.image).shape[-2:]
                files.read(str(member.get("image_id") or raw.key), raw.key, size)
            except (BadElements, images.BadImage, OSError) as error:
                reasons.append(str(error))
        if reasons and len(reasons) == min(FILES, len(shards)):
            raise ValueError(f"data.fields.region_files: {reasons[0]}")


def adopt_labels(cfg: Config, sources: Sequence[Json]) -> None:
    """The class names of an objective that needs them, in place: those of the config, else those of
    ``WORK_DIR/labels.json``, else all that the sources' first samples have, which are put there.
    """
    if "label" not in needs_of(cfg.model.objective):
        return
    names = cfg.data.fields.get("labels") or cfg.model.objective.get("labels")
    if not names:
        place = Path(cfg.work_dir) / LABELS
        if rank() == 0 and not place.exists():
            found = {name for source in sources for name in _labels(source)}
            place.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(sorted(found), ensure_ascii=False, indent=1)
            atomic_write(place, lambda file: file.write(text.encode()))
        barrier()
        names = json.loads(place.read_text(encoding="utf-8"))
    cfg.data.fields.labels = cfg.model.objective.labels = list(names)


def _labels(source: Json) -> Iterator[str]:
    shards = ShardSet(source["shards"])
    first = ((shards, n) for n in range(min(LABELLED, len(shards))))
    for read in read_in_turn(first, image=False):
        with suppress(BadElements, BadCaption, OSError):
            raw = read()
            if raw.is_json and raw.text:
                elems = list_of(json_object(raw.text), "elems")
                yield from (str(elem["label"]) for elem in elems if elem.get("label"))


def _first(source: Json) -> list[Json]:
    """The stored members of a source's first samples; of those that are none, nothing."""
    shards = ShardSet(source["shards"])
    found: list[Json] = []
    first = ((shards, n) for n in range(min(LOOK, len(shards))))
    for read in read_in_turn(first, image=False):
        try:
            raw = read()
            member = json_object(raw.text) if raw.is_json and raw.text else {}
            list_of(member, "elems")
        except (BadElements, BadCaption, OSError):
            member = {}
        found.append(member)
    return found


def _has(sample: Json, need: str) -> bool:
    elems = list_of(sample, "elems")
    if need == "concepts":
        return any("box" in elem and elem.get("text") for elem in elems)
    if need == "tags":
        return bool(sample.get("tags")) or any(elem.get("label") for elem in elems)
    if need == "label":
        return any("box" in elem and elem.get("label") for elem in elems)
    if need == "regions":
        return any("box" in elem for elem in elems)
    return need in sample
