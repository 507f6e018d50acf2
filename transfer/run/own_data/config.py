"""(any mm config, a folder of a person's data) -> the same config on that data: files, photographs,
class names, and `num_classes` of every head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from sparc_pretrain.config_tree import dicts
from transfer.plug.replace import Ledger
from transfer.run.own_data import folders
from transfer.run.own_data.folders import Split
from transfer.run.own_data.schedule import set_passes

LOADERS = {"train_dataloader": "train", "val_dataloader": "val", "test_dataloader": "val"}
KEPT = ("pipeline", "test_mode", "filter_cfg", "backend_args")  # of a config's data set
# What a config may say in `own_data`, beside --data.
KEYS = ("train", "val", "images", "image_size", "passes", "reduce_zero_label")
REASON = "--data"


def take_data(cfg: Config, folder: str, ledger: Ledger) -> None:
    """Puts the data in `folder` into `cfg`, in place; what changes is noted in `ledger`.

    ``cfg.own_data`` may say more: `train`, `val`, `images` where the folder does not tell
    (`folders`), `image_size` (side in pixels in the place of the config's), `passes` (over the
    training set, 'auto' = `schedule.passes_of`), `reduce_zero_label` (0 of label maps is
    unlabelled).

    Raises:
        ValueError: a model or data set of another kind than boxes, masks or label maps; a key that
            `own_data` does not have; others as `folders`.
    """
    own = dict(cfg.get("own_data") or {})
    if unknown := [key for key in own if key not in KEYS]:
        raise ValueError(f"own_data.{unknown[0]}: known are {', '.join(KEYS)}")
    root = Path(folder).expanduser().resolve()
    scope = cfg.get("default_scope", "mmdet")
    shifted = bool(own.get("reduce_zero_label"))
    if scope == "mmdet":
        _no_stuff(cfg)
        splits = folders.boxes(root, own)
    elif scope == "mmseg":
        splits = folders.maps(root, own, shifted)
    else:
        raise ValueError(f"--data is for detection and segmentation, not for {cfg.get('task')}")
    before = _classes_of(cfg, scope)
    for loader, name in LOADERS.items():
        if cfg.get(loader):
            path, dataset = _dataset(cfg[loader], loader)
            _point(dataset, path, root, splits[name], scope, ledger)
            if scope == "mmseg":
                _shift(dataset, path, shifted, ledger)
    if scope == "mmdet":
        _judge(cfg, root / splits["val"].annotations, ledger)
    _count(cfg, before, len(splits["train"].classes), ledger)
    if own.get("image_size"):
        _resize(cfg, int(own["image_size"]), ledger)
    if own.get("passes"):
        set_passes(cfg, own["passes"], splits["train"].count, ledger)


def _no_stuff(cfg: Config) -> None:
    for path, part in dicts(cfg.get("train_dataloader") or {}, "train_dataloader"):
        if part.get("with_seg") or "Panoptic" in str(part.get("type")):
            raise ValueError(
                f"{path} reads maps of stuff beside boxes; --data brings boxes and masks: take a "
                "config without (configs/my/instances.py)"
            )


def _dataset(loader: Any, path: str) -> tuple[str, ConfigDict]:
    """The data set of a loader, inside those that wrap one, and its path."""
    keys = ("ann_file", "data_prefix", "data_root", "pipeline")
    found = [
        (where, part)
        for where, part in dicts(loader, path)
        if "type" in part
        and any(key in part for key in keys)
        # those that wrap others have steps of their own
        and not any(key in part for key in ("dataset", "datasets"))
    ]
    if len(found) != 1:
        raise ValueError(f"{path} joins {len(found)} data sets; --data takes the place of one")
    return found[0]


def _classes_of(cfg: Config, scope: str) -> int:
    """How many classes the config's own data set has."""
    _, dataset = _dataset(cfg.train_dataloader, "train_dataloader")
    told = (dataset.get("metainfo") or {}).get("classes")
    if told is None:
        kind = dataset.type if "." in dataset.type else f"{scope}.{dataset.type}"
        told = getattr(DATASETS.get(kind), "METAINFO", {}).get("classes") or ()
    return len(told)


def _point(
    dataset: ConfigDict, path: str, root: Path, split: Split, scope: str, ledger: Ledger
) -> None:
    """Makes `dataset` read `split`."""
    kept = {key: dataset[key] for key in KEPT if key in dataset}
    if scope == "mmdet":
        new = dict(
            type="CocoDataset", ann_file=split.annotations, data_prefix=dict(img=split.images)
        )
    else:
        prefix = dict(img_path=split.images, seg_map_path=split.annotations)
        new = dict(
            type="BaseSegDataset",
            data_prefix=prefix,
            img_suffix=split.suffixes[0],
            seg_map_suffix=split.suffixes[1],
        )
        kept.pop("filter_cfg", None)
    new.update(data_root=f"{root}/", metainfo=dict(classes=split.classes))
    for key in [key for key in dataset if key not in (*new, *kept, "_scope_")]:
        ledger.set(dataset, path, key, None, f"{REASON}: of another data set")
    for key, value in new.items():
        reason = f"{REASON}: {split.count} photographs, {len(split.classes)} classes"
        ledger.set(dataset, path, key, ConfigDict(value) if isinstance(value, dict) else value,
                   reason)  # fmt: skip


def _shift(dataset: ConfigDict, path: str, shifted: bool, ledger: Ledger) -> None:
    """What stands for 0 in label maps, in the data set and in the steps that load them."""
    ledger.set(dataset, path, "reduce_zero_label", shifted, REASON)
    for where, step in dicts(dataset.get("pipeline") or [], f"{path}.pipeline"):
        if str(step.get("type")).endswith("LoadAnnotations") and "reduce_zero_label" in step:
            ledger.set(step, where, "reduce_zero_label", shifted, REASON)


def _judge(cfg: Config, ann_file: Path, ledger: Ledger) -> None:
    """Average precision on the validation file, in COCO's style."""
    for key in ("val_evaluator", "test_evaluator"):
        told = cfg.get(key)
        first = told[0] if isinstance(told, (list, tuple)) else told
        if not first:
            continue
        kinds = first.get("iou_types") or first.get("metric") or "bbox"
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        kinds = tuple(kind for kind in kinds if kind in ("bbox", "segm")) or ("bbox",)
        new = ConfigDict(type="sparc.DetectionMetric", ann_file=str(ann_file), iou_types=kinds)
        ledger.set(cfg, "", key, new, f"{REASON}: COCO's average precision")


def _count(cfg: Config, before: int, after: int, ledger: Ledger) -> None:
    """`num_classes` of all heads that have `before`; weights of the classes follow.

    Raises ValueError: no head has; or each class has a weight of its own.
    """
    heads = [
        (path, part)
        for path, part in dicts(cfg.model, "model")
        if part.get("num_classes") == before and isinstance(part.get("num_classes"), int)
    ]
    if not heads:
        raise ValueError(
            f"no part of the model has num_classes={before}, as the config's own data set has: set "
            "num_classes yourself, and data_root, ann_file, metainfo, instead of --data"
        )
    for path, part in heads:
        ledger.set(part, path, "num_classes", after, f"{REASON}: its classes")
    for path, part in dicts(cfg.model, "model"):
        weights = part.get("class_weight")
        if isinstance(weights, (list, tuple)) and len(weights) in (before, before + 1):
            if len(set(weights[:before])) > 1:
                raise ValueError(
                    f"{path}.class_weight has a weight for each of {before} classes: say yours, or "
                    f"--cfg-options {path}.class_weight=None"
                )
            told = [weights[0]] * after + list(weights[before:])
            ledger.set(part, path, "class_weight", told, f"{REASON}: its classes")


def _resize(cfg: Config, side: int, ledger: Ledger) -> None:
    """`side` for every square of the config's image size: in pipelines, crops and paddings.

    Raises ValueError: the config's images are not squares of one size.
    """
    crops = [
        tuple(step["crop_size"])
        for _, step in dicts(cfg.train_dataloader, "train_dataloader")
        if isinstance(step.get("crop_size"), (list, tuple))
    ]
    if not crops or len({*crops}) > 1 or crops[0][0] != crops[0][1]:
        raise ValueError(f"own_data.image_size: the config crops to {crops}, not to one square")
    old, reason = crops[0][0], "own_data.image_size"
    keys = ("crop_size", "scale", "size")
    for part in ("model", *LOADERS):
        for path, node in dicts(cfg.get(part) or {}, part):
            if node.get("mode") == "slide" and "stride" in node:
                steps = tuple(v * side // old for v in node["stride"])
                ledger.set(node, path, "stride", steps, reason)
            for key in keys:
                value = node.get(key)
                if isinstance(value, (list, tuple)) and len(value) == 2 and old in value:
                    ledger.set(node, path, key, tuple(v * side // old for v in value), reason)
            if node.get("pad_size_divisor") == old:
                ledger.set(node, path, "pad_size_divisor", side, reason)
