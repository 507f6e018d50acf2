"""What an objective needs of the samples beside image and caption: asked for in the config, and
there in the shards, before anything is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparc_pretrain.data.captions import BadCaption
from sparc_pretrain.data.element_json import BadElements, Json, json_object, list_of
from sparc_pretrain.data.fields import Fields
from sparc_pretrain.data.shards import ShardSet
from sparc_pretrain.registry import OBJECTIVES

LOOK = 64  # samples of each source
# need -> (key of data.fields, what it is, the paper's number, what a stored sample has)
NEEDS = {
    "concepts": ("concepts", "boxes with texts", "5", "'elems' with 'text' and 'box'"),
    "tags": ("tags", "tags", "20", "'tags', or 'elems' with 'label'"),
    "regions": ("regions", "boxes", "36", "'elems' with 'box'"),
    "label": ("regions", "boxes with class names", "36", "'elems' with 'label' and 'box'"),
    "saliency": ("saliency", "the box of what the picture is about", "True", "'saliency'"),
    "product_id": ("saliency", "names of products", "True", "'product_id'"),
}
COMMAND = "python tools/data.py boxes --kind KIND --images DIR --annotations FILE.. --out DIR"


def needs_of(objective: dict[str, Any]) -> tuple[str, ...]:
    """What the objective of a config needs."""
    return tuple(getattr(OBJECTIVES.get(objective["type"]), "needs", ()))


def check(objective: dict[str, Any], fields: Fields | None, sources: Sequence[Json]) -> list[str]:
    """Lines for the log: what the first samples of each source have.

    Raises ValueError when `data.fields` does not ask for what the objective needs, or no source has
    it.
    """
    lines: list[str] = []
    looked: list[list[Json]] | None = None
    for need in needs_of(objective):
        if need not in NEEDS:
            continue
        key, what, usual, stored = NEEDS[need]
        if fields is None or not getattr(fields, key):
            raise ValueError(
                f"objective {objective['type']} needs {need} ({what}): set data.fields.{key}, "
                f"{usual} in the paper"
            )
        looked = [_first(source) for source in sources] if looked is None else looked
        share = [sum(_has(sample, need) for sample in first) / len(first) for first in looked]
        if not any(share):
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
    if looked and fields.concepts:
        most = max(len(list_of(sample, "elems")) for first in looked for sample in first)
        if most > fields.concepts:
            lines.append(f"images have up to {most} boxes: {fields.concepts} are drawn each time")
    return lines


def _first(source: Json) -> list[Json]:
    """The stored members of a source's first samples; of those that are none, nothing."""
    shards = ShardSet(source["shards"])
    found: list[Json] = []
    for n in range(min(LOOK, len(shards))):
        try:
            raw = shards.read(n, image=False)
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
