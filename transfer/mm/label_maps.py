"""Label maps of segmentation as mmseg loads them, checked: one class index per pixel, of the
photograph's size, below the number of classes.

Reason: mmseg takes a colour picture, a map of another size or a label that no class has, and ends
in an IndexError, on a GPU in a device-side assert, somewhere in a step; it cuts 16 bits to 8.
"""

from __future__ import annotations

import sys
from typing import Any

import mmcv
import numpy as np
from mmengine import fileio
from mmengine.dataset import BaseDataset

from sparc_pretrain.data import png

IGNORED = 255  # mmseg's label of pixels that count for nothing
SAMPLED = 16  # maps that are looked at before the first step


def mend_label_maps() -> None:
    """Lets mmseg's LoadAnnotations check what it loads, if mmseg's import brought it. Idempotent.

    Delete when: mmseg checks label maps.
    """
    loading = sys.modules.get("mmseg.datasets.transforms.loading")
    if loading is not None:
        loading.LoadAnnotations._load_seg_map = load
        sys.modules["mmseg.datasets.basesegdataset"].BaseSegDataset.get_data_info = _row


def _row(dataset: BaseDataset, index: int) -> dict[str, Any]:
    """A sample of a BaseSegDataset, which knows how many classes there are."""
    row = BaseDataset.get_data_info(dataset, index)
    row["num_classes"] = len((dataset.metainfo or {}).get("classes") or ())
    return row


def load(loader: Any, results: dict[str, Any]) -> None:
    """Stands for ``LoadAnnotations._load_seg_map``: adds `gt_seg_map` [H,W] uint8.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    name = results["seg_map_path"]
    data = fileio.get(name, backend_args=loader.backend_args)
    png.check(data, name)  # decoders fill missing rows with label 0
    try:
        found = mmcv.imfrombytes(data, flag="unchanged", backend=loader.imdecode_backend)
    except Exception as error:  # whatever a decoder raises on damaged data
        raise ValueError(f"{name}: the label map cannot be read ({type(error).__name__})") from None
    if found is None:
        raise ValueError(f"{name}: the label map cannot be read")
    labels = found.squeeze()
    if labels.ndim != 2:
        raise ValueError(
            f"{name} is a colour picture (shape {found.shape}); a label map has one channel with "
            "the number of a class in each pixel: convert it"
        )
    size = results.get("ori_shape")
    if size is not None and tuple(labels.shape) != tuple(size[:2]):
        raise ValueError(
            f"{name} is of {labels.shape[0]} x {labels.shape[1]} pixels, its image "
            f"{results['img_path']} of {size[0]} x {size[1]} (height x width)"
        )
    if labels.dtype != np.uint8:
        if labels.min() < 0 or labels.max() > IGNORED:
            raise ValueError(f"{name} holds the label {labels.max()}; mmseg's labels end at 255")
        labels = labels.astype(np.uint8)
    if loader.reduce_zero_label is None:
        loader.reduce_zero_label = results["reduce_zero_label"]
    assert loader.reduce_zero_label == results["reduce_zero_label"], (
        f"reduce_zero_label is {loader.reduce_zero_label} in the pipeline, "
        f"{results['reduce_zero_label']} in the data set"
    )
    if loader.reduce_zero_label:  # 0 and 255 become 255, the others one less
        labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1).astype(np.uint8)
    if results.get("label_map"):
        table = np.arange(IGNORED + 1, dtype=np.uint8)
        for old, new in results["label_map"].items():
            table[old] = new % (IGNORED + 1)
        labels = table[labels]
    _check(labels, results.get("num_classes"), name, loader.reduce_zero_label)
    results["gt_seg_map"] = labels
    results["seg_fields"].append("gt_seg_map")


def _check(labels: np.ndarray, classes: int | None, name: str, reduced: bool) -> None:
    """Raises ValueError for labels [H,W] that none of `classes` has."""
    if not classes:
        return
    wrong = (labels >= classes) & (labels != IGNORED)
    if not wrong.any():
        return
    first, pixels = int(labels[wrong].min()), int(wrong.sum())
    shift = 1 if reduced else 0
    hint = "" if reduced else "; reduce_zero_label=True takes 0 for unlabelled and counts from 1"
    raise ValueError(
        f"{name} holds the label {first + shift} in {pixels} pixels, but there are {classes} "
        f"classes ({shift} to {classes - 1 + shift}, 255 = unlabelled): set metainfo.classes and "
        f"num_classes, or relabel those pixels 255{hint}"
    )


def check_sample(dataset: BaseDataset) -> None:
    """Loads some of the label maps of an mmseg data set, spread over it, before anything is
    trained; nothing happens for other data sets.

    Raises:
        ValueError: as `load`. FileNotFoundError: a map is missing.
    """
    loading = sys.modules.get("mmseg.datasets.transforms.loading")
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", None) or []
    kind = getattr(loading, "LoadAnnotations", ())
    if not any(isinstance(step, kind) for step in steps):
        return
    count = min(SAMPLED, len(dataset))
    for index in np.linspace(0, len(dataset) - 1, count).astype(int).tolist():
        row = dataset.get_data_info(index)
        for step in steps:
            row = step(row)
            if row is None or isinstance(step, kind):
                break
