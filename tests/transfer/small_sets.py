"""A person's own small data and a config of a few lines on it, as several tests need them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mmengine.config.utils import _get_cfg_metainfo
from PIL import Image

from tests.commands import ROOT

CLASSES = ("star", "house")
SIDE = 64
COLOURS = ((220, 40, 40), (40, 60, 220))
VISION = dict(
    arch="vit_tiny_patch16_224",
    img_size=SIDE,
    width=24,
    overrides=dict(embed_dim=24, depth=2, num_heads=2),
)


def coco(images: int = 4, classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """A COCO file: image i shows one box of each class; ids of images from 1, of categories from
    3.
    """
    boxes = [[4, 4 + 2 * k, 24, 20] if k % 2 else [30, 6 + 2 * k, 28, 30] for k in range(8)]
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
            for i in range(images)
        ],
        "categories": [{"id": k + 3, "name": name} for k, name in enumerate(classes)],
        "annotations": [
            {
                "id": i * len(classes) + k + 1,
                "image_id": i + 1,
                "category_id": k + 3,
                "bbox": boxes[k],
                "area": boxes[k][2] * boxes[k][3],
                "iscrowd": 0,
            }
            for i in range(images)
            for k in range(len(classes))
        ],
    }


def write(folder: Path, contents: dict[str, Any], name: str = "boxes.json") -> Path:
    """`contents` as FOLDER/NAME, and a picture for each of its images in FOLDER/images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for image in contents["images"]:
        pixels = noise.integers(90, 130, (image["height"], image["width"], 3), dtype=np.uint8)
        for row in contents["annotations"]:
            if row["image_id"] == image["id"]:
                x, y, w, h = row["bbox"]
                pixels[y : y + h, x : x + w] = COLOURS[row["category_id"] % 2]
        Image.fromarray(pixels).save(folder / "images" / image["file_name"])
    (folder / name).write_text(json.dumps(contents))
    return folder / name


def detector(folder: Path, extra: str = "", name: str = "det.py") -> Path:
    """FOLDER/NAME: FCOS on FOLDER/boxes.json for two steps, `extra` on top of it."""
    text = f"""
_base_ = {str(ROOT / "configs" / "_base_" / "fcos_vit.py")!r}
image_scale = ({SIDE}, {SIDE})
model = dict(
    backbone=dict(vision=dict(_delete_=True, **{VISION!r})),
    neck=dict(in_channels=24, out_channels=16),
    bbox_head=dict(num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1,
        norm_cfg=dict(type="GN", num_groups=4)),
    test_cfg=dict(score_thr=0.0, max_per_img=5),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=image_scale, keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs",
         meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
own = dict(data_root={f"{folder}/"!r}, metainfo=dict(classes={CLASSES!r}),
    ann_file="boxes.json", data_prefix=dict(img="images/"))
train_dataloader = dict(batch_size=2, dataset=own,
    sampler=dict(_delete_=True, type="InfiniteSampler", shuffle=True))
val_dataloader = dict(batch_size=2, dataset=dict(pipeline=test_pipeline, **own))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file={str(folder / "boxes.json")!r})
test_evaluator = val_evaluator
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=2, val_interval=2)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=2))
log_processor = dict(by_epoch=False, window_size=1)
"""
    (folder / "small_base.py").write_text(text)
    (folder / name).write_text(f"_base_ = './small_base.py'\n{extra}")
    return folder / name


@functools.cache
def _package_metadata(path: str, name: str) -> Any:
    """mmengine's table of a package's configs: a hundred YAML files, each time a config is read."""
    return _get_cfg_metainfo(path, name)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `hasten`."""
    hasten(monkeypatch)


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Runners without what takes long and decides nothing here: config texts laid out by yapf,
    pictures, mm's tables of configs, and collecting the garbage of a whole test run.
    """
    patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **kwargs: (text, True))
    patch.setattr("mmengine.config.utils._get_cfg_metainfo", _package_metadata)
    patch.setattr("mmengine.dataset.base_dataset.gc", SimpleNamespace(collect=lambda: 0))
    patch.setattr("transfer.run.hooks.RecordHook.after_val_iter", lambda *_, **__: None)
    patch.setattr("transfer.run.hooks.RecordHook.after_test_iter", lambda *_, **__: None)
