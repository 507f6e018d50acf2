"""Annotation files that a config does not expect, and parts that cannot be built: one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

from transfer import mm
from transfer.run.build import naming_parts

NAMES = ("cat", "dog", "cow")


@pytest.fixture(scope="module", autouse=True)
def mmdet() -> None:
    """mmdet's import belongs to no single test."""
    mm.register("mmdet")


def annotations(names: tuple[str, ...] = NAMES, lvis: bool = False, masks: bool = True) -> dict:
    """One image with one box, as COCO or LVIS files have it."""
    image: dict[str, Any] = {"id": 1, "height": 40, "width": 60}
    if lvis:
        image |= {"coco_url": "http://images.cocodataset.org/train2017/000000000001.jpg"}
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    else:
        image["file_name"] = "1.jpg"
    box = {"id": 7, "image_id": 1, "category_id": 2, "bbox": [5, 5, 20, 20], "area": 400}
    if masks:
        box["segmentation"] = [[5, 5, 25, 5, 25, 25, 5, 25]]
    if not lvis:
        box["iscrowd"] = 0
    listed = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    if lvis:
        listed = [dict(c, frequency="f", image_count=1) for c in listed]
    return {"images": [image], "annotations": [box], "categories": listed}


def load(folder: Path, contents: dict, kind: str = "CocoDataset", **options: Any) -> Any:
    file = folder / "truth.json"
    file.write_text(json.dumps(contents))
    steps = [dict(type="LoadAnnotations", with_bbox=True, **options)]
    cfg = dict(
        type=kind,
        ann_file=str(file),
        data_prefix=dict(img="images"),
        metainfo=dict(classes=NAMES),
        pipeline=steps,
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(cfg)


def test_a_file_that_is_as_expected_is_read(tmp_path: Path) -> None:
    data = load(tmp_path, annotations(), with_mask=True)
    assert len(data) == 1 and data.get_data_info(0)["instances"][0]["bbox_label"] == 1
    data = load(tmp_path, annotations(lvis=True), "LVISV1Dataset", with_mask=True)
    assert len(data) == 1 and data.get_data_info(0)["img_path"].endswith("000000000001.jpg")


def test_an_lvis_file_where_coco_is_expected_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"truth\.json is an LVIS file.*type='LVISV1Dataset'"):
        load(tmp_path, annotations(lvis=True))


def test_a_coco_file_where_lvis_is_expected_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"truth\.json is not an LVIS file.*type='CocoDataset'"):
        load(tmp_path, annotations(), "LVISV1Dataset")


@pytest.mark.parametrize(("kind", "lvis"), [("CocoDataset", False), ("LVISV1Dataset", True)])
def test_categories_in_another_order_than_the_configs_are_refused(
    tmp_path: Path, kind: str, lvis: bool
) -> None:
    contents = annotations(("cat", "cow", "dog"), lvis)
    with pytest.raises(ValueError, match=r"category 1 is 'cow', metainfo\.classes has 'dog' there"):
        load(tmp_path, contents, kind)


def test_categories_that_the_config_does_not_use_may_stand_anywhere(tmp_path: Path) -> None:
    assert len(load(tmp_path, annotations(("cat", "dog", "emu", "cow")))) == 1


def test_an_lvis_file_with_more_categories_than_the_config_is_refused(tmp_path: Path) -> None:
    contents = annotations((*NAMES, "emu"), lvis=True)
    with pytest.raises(ValueError, match=r"holds 4 categories, metainfo\.classes 3"):
        load(tmp_path, contents, "LVISV1Dataset")


def test_boxes_without_masks_are_refused_where_masks_are_loaded_and_only_there(
    tmp_path: Path,
) -> None:
    bare = annotations(masks=False)
    with pytest.raises(ValueError, match=r"annotation 7 has no segmentation.*with_mask=True"):
        load(tmp_path, bare, with_mask=True)
    assert len(load(tmp_path, bare)) == 1


def test_the_readers_are_mmdets_own_again_afterwards(tmp_path: Path) -> None:
    import lvis

    reader = lvis.LVIS
    data = load(tmp_path, annotations())
    assert "COCOAPI" not in vars(data)
    with pytest.raises(ValueError, match="not an LVIS file"):
        load(tmp_path, annotations(), "LVISV1Dataset")
    assert lvis.LVIS is reader


# ------------------------------------------------------------------ parts that cannot be built


def build(cfg: Any) -> Any:
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(cfg)


def fpn(**changes: Any) -> Config:
    neck = dict(type="FPN", in_channels=[8, 8], out_channels=8, num_outs=2)
    backbone = dict(type="ResNet", depth=18)
    return Config(dict(model=dict(type="RetinaNet", backbone=backbone, neck={**neck, **changes})))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_outs=1), r"AssertionError.*\(fpn\.py:\d+\)"),
        (dict(out_chanels=8), r"TypeError.*out_chanels"),
        (dict(upsample_cfg=dict(mode=3)), None),
    ],
)
def test_what_a_class_does_not_take_is_told_with_its_place_in_the_config(
    changes: dict, message: str | None
) -> None:
    cfg = fpn(**changes)
    if message is None:
        with naming_parts(cfg):
            build(cfg.model.neck)
        return
    line = rf"^model\.neck \(FPN\) cannot be built: {message}"
    with pytest.raises(ValueError, match=line), naming_parts(cfg):
        build(cfg.model.neck)


def test_a_type_that_is_not_there_and_a_forgotten_argument_are_told_as_well() -> None:
    cfg = Config(dict(model=dict(type="Nowhere")))
    line = r"model \(Nowhere\) cannot be built: KeyError: Nowhere is"
    with pytest.raises(ValueError, match=line), naming_parts(cfg):
        build(cfg.model)
    cfg = Config(dict(model=dict(type="X", parts=[dict(type="L1Loss"), dict(type="FPN")])))
    line = r"model\.parts\[1\] \(FPN\).*missing"
    with pytest.raises(ValueError, match=line), naming_parts(cfg):
        build(cfg.model.parts[1])


def test_errors_from_elsewhere_pass() -> None:
    with pytest.raises(KeyError, match="mine"), naming_parts(fpn()):
        raise KeyError("mine")
    with pytest.raises(RuntimeError), naming_parts(fpn()):
        raise RuntimeError("out of memory")
