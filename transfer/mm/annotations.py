"""Annotation files against the config that names them, when a data set is loaded: one line for the
mistakes that mmdet answers with a KeyError, or with wrong labels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from sparc_pretrain.command.cli import nearest
from sparc_pretrain.data.coco_file import coco_rows, read_coco

LVIS_CLASSES = ("LVISV05Dataset", "LVISV1Dataset", "LVISDataset")


def check(dataset: Any, contents: dict[str, Any]) -> None:
    """Raises ValueError where the file's `contents` are not what the data set expects.

    Args:
        dataset: an mmdet CocoDataset, or a subclass, before it parses its file.
        contents: the parsed JSON, with ``images``, ``annotations`` and ``categories``.
    """
    names = [cls.__name__ for cls in type(dataset).__mro__]
    wants_lvis = any(name in LVIS_CLASSES for name in names)
    images = contents.get("images") or [{}]
    is_lvis = "neg_category_ids" in images[0] or (
        "coco_url" in images[0] and ("file_name" not in images[0])
    )
    # v0.5's class reads file names: LVIS-like sets of other photographs have no addresses
    by_name = names[0] == "LVISV05Dataset" and "neg_category_ids" in images[0]
    if wants_lvis and "coco_url" not in images[0] and not by_name:
        raise ValueError(
            f"{dataset.ann_file} is not an LVIS file (its images have no coco_url), but "
            f"{names[0]} reads LVIS: give it one, or use type='CocoDataset'"
        )
    if is_lvis and not wants_lvis:
        raise ValueError(
            f"{dataset.ann_file} is an LVIS file (its images have neg_category_ids), but "
            f"{names[0]} reads COCO: use type='LVISV1Dataset', or give it a COCO file"
        )
    categories(dataset, contents.get("categories") or [], by_position=wants_lvis)
    flat = [a for a in contents.get("annotations") or [] if "segments_info" not in a]
    coco_rows({"images": [], "categories": [], **contents, "annotations": flat}, dataset.ann_file)
    if (unmeasured := next((a for a in flat if "area" not in a), None)) is not None:
        raise ValueError(
            f"{dataset.ann_file}: annotation {unmeasured.get('id')} has no area: write one beside "
            "each bbox, its width times its height or the pixels of its mask"
        )
    if needs_masks(getattr(dataset, "pipeline", None)):
        bare = next((a for a in contents.get("annotations") or [] if _bare(a)), None)
        if bare is not None:
            raise ValueError(
                f"{dataset.ann_file}: annotation {bare.get('id')} has no segmentation, but the "
                "pipeline loads masks (LoadAnnotations with_mask=True): give a file with masks, or "
                "a config without a mask head"
            )


def categories(dataset: Any, listed: list[dict], by_position: bool = False) -> None:
    """Labels are numbered by the file's order of categories, names by the config's: both must
    agree.

    Args:
        listed: the file's categories. by_position: the data set takes all of them (LVIS).

    Raises:
        ValueError: naming the first category at another place.
    """
    classes = tuple((getattr(dataset, "metainfo", None) or {}).get("classes") or ())
    names_once(listed, classes, dataset.ann_file)
    found = [c["name"] for c in listed if by_position or c["name"] in classes]
    if by_position and sorted(found) != sorted(classes):
        if classes and len(found) != len(classes):
            raise ValueError(
                f"{dataset.ann_file} holds {len(found)} categories, metainfo.classes {len(classes)}"
            )
        return  # spelt otherwise: nothing to compare by name
    names = [c["name"] for c in listed]
    missing = [name for name in classes if name not in set(names)]
    if missing and not by_position:
        raise ValueError(
            f"{dataset.ann_file} has no category {missing[:5]}{nearest(missing[0], names)} of the "
            f"{len(classes)} in metainfo.classes: the names must match"
        )
    for place, (there, here) in enumerate(
        zip(found, [c for c in classes if c in set(found)], strict=True)
    ):
        if there != here:
            raise ValueError(
                f"{dataset.ann_file}: category {place} is {there!r}, metainfo.classes has {here!r} "
                "there: list metainfo.classes in the file's order"
            )


def names_once(listed: Iterable[dict], classes: Iterable[str], name: str) -> None:
    """Raises ValueError where two categories of the file `name` have the name of one class."""
    wanted, ids = set(classes), {}
    for row in listed:
        if row["name"] in wanted and row["name"] in ids:
            raise ValueError(
                f"{name}: the name {row['name']!r} is used by two categories (ids "
                f"{ids[row['name']]} and {row['id']}): rename one, or remove the one without boxes"
            )
        ids[row["name"]] = row["id"]


def needs_masks(pipeline: Any) -> bool:
    """Whether a pipeline's LoadAnnotations, at any depth, loads instance masks."""
    steps: Iterable[Any] = getattr(pipeline, "transforms", None) or ()
    return any(getattr(s, "with_mask", False) or needs_masks(s) for s in steps)


def _bare(annotation: dict) -> bool:
    if "segments_info" in annotation:  # panoptic: masks are in the picture beside it
        return False
    return not annotation.get("segmentation") and not annotation.get("iscrowd")


def checked(load: Callable[[Any], list]) -> Callable[[Any], list]:
    """`load`, the ``load_data_list`` of a CocoDataset, with `check` between reading and parsing."""

    def load_data_list(dataset: Any) -> list:
        api = type(dataset).COCOAPI
        dataset.COCOAPI = _opener(dataset, api)  # for this call, before the class's own
        try:
            return load(dataset)
        finally:
            del dataset.COCOAPI

    load_data_list.checked = True
    return load_data_list


def checked_lvis(load: Callable[[Any], list]) -> Callable[[Any], list]:
    """The same for an LVIS data set, which takes its reader from the module ``lvis``."""

    def load_data_list(dataset: Any) -> list:
        lvis = importlib.import_module("lvis")
        api = lvis.LVIS
        lvis.LVIS = _opener(dataset, api)
        try:
            return load(dataset)
        finally:
            lvis.LVIS = api

    load_data_list.checked = True
    return load_data_list


def _opener(dataset: Any, api: Callable[[str], Any]) -> Callable[[str], Any]:
    def opened(path: str) -> Any:
        try:
            read = api(path)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
            read_coco(path)  # tells what is wrong with it
            raise
        check(dataset, read.dataset)
        return read

    return opened
