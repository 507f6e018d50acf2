"""``--data DIR``: any config on a person's own files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from tests.commands import ROOT, call, refusal
from tests.transfer.run.own_data.test_folders import labelled, lay
from tests.transfer.small_sets import coco, detector, quick, write  # noqa: F401
from transfer.run import recipe

pytestmark = pytest.mark.usefixtures("quick")
MY = ROOT / "configs" / "my"


def loaded(config: str | Path, root: Path, tmp_path: Path, **options) -> Config:
    return recipe.load(str(config), options, str(tmp_path / "work"), data=str(root))


@pytest.mark.parametrize("name", ["det", "instances"])
def test_boxes_of_a_folder_are_all_that_a_detector_needs(name: str, tmp_path: Path) -> None:
    lay(root := tmp_path / "mine", "roboflow")
    cfg = loaded(MY / f"{name}.py", root, tmp_path, **{"own_data.image_size": 256})
    inner = cfg.train_dataloader.dataset.dataset
    assert inner.data_root == f"{root}/" and inner.metainfo.classes == ("star", "house")
    assert cfg.model.roi_head.bbox_head.num_classes == 2
    assert cfg.val_evaluator.ann_file == str(root / "valid" / "_annotations.coco.json")
    assert cfg.train_cfg.max_epochs == 300 and cfg.param_scheduler[1].T_max == 300
    assert cfg.model.data_preprocessor.pad_size_divisor == 256
    if name == "instances":
        assert cfg.model.roi_head.mask_head.num_classes == 2
        assert cfg.val_evaluator.iou_types == ("bbox", "segm")
    else:
        assert cfg.val_evaluator.iou_types == ("bbox",) and not cfg.model.roi_head.mask_head
        with DefaultScope.overwrite_default_scope("mmdet"):
            assert not MODELS.build(cfg.model).roi_head.with_mask
    recipe.check_files(cfg, ("train_dataloader", "val_dataloader", "test_dataloader"))


@pytest.mark.parametrize("name", ["det", "instances", "seg"])
def test_the_small_ones_take_a_folder_too(name: str, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    labelled(root) if name == "seg" else lay(root, "flat")
    cfg = loaded(MY / "small" / f"{name}.py", root, tmp_path)
    recipe.check_files(cfg, ("train_dataloader", "val_dataloader", "test_dataloader"))
    counts = set(re.findall(r"'num_classes': (\d+)", str(cfg.model.to_dict())))
    assert counts == {"3" if name == "seg" else "2"}
    assert cfg.train_dataloader.dataset.data_root == f"{root}/"


def test_label_maps_of_a_folder_are_all_that_a_segmentor_needs(tmp_path: Path) -> None:
    labelled(root := tmp_path / "mine")
    cfg = loaded(MY / "seg.py", root, tmp_path, **{"own_data.image_size": 256})
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 3
    assert cfg.train_dataloader.dataset.seg_map_suffix == "_mask.png"
    assert cfg.train_dataloader.dataset.pipeline[1].reduce_zero_label is False
    assert tuple(cfg.model.test_cfg.crop_size) == (256, 256)
    assert tuple(cfg.model.test_cfg.stride) == (170, 170)


def test_a_stock_config_keeps_its_schedule_and_gets_the_classes(tmp_path: Path) -> None:
    lay(root := tmp_path / "mine", "flat")
    cfg = loaded("mmdet::detr/detr_r50_8xb2-150e_coco.py", root, tmp_path)
    assert cfg.model.bbox_head.num_classes == 2 and cfg.train_cfg.max_epochs == 150
    m2f = "mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py"
    labelled(other := tmp_path / "other")
    cfg = loaded(m2f, other, tmp_path)
    told = cfg.model.decode_head
    assert told.num_classes == 3 and told.loss_cls.class_weight == [1.0, 1.0, 1.0, 0.1]


def test_a_config_for_ones_own_data_asks_for_it(tmp_path: Path) -> None:
    cfg = recipe.load(str(MY / "det.py"), None, str(tmp_path / "work"))
    with pytest.raises(FileNotFoundError, match="--data DIR"):
        recipe.check_files(cfg, ("train_dataloader",))


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    lay(root := tmp_path / "mine", "flat")
    htc = "mmdet::htc/htc_r50_fpn_1x_coco.py"
    with pytest.raises(ValueError, match="stuff"):
        loaded(htc, root, tmp_path)
    with pytest.raises(ValueError, match=r"own_data\.typo: known are train"):
        loaded(MY / "det.py", root, tmp_path, **{"own_data.typo": 1})
    with pytest.raises(ValueError, match="captioning"):
        loaded(ROOT / "configs" / "quickstart" / "caption.py", root, tmp_path)


def test_a_training_and_a_test_on_a_folder(tmp_path: Path) -> None:
    """On classes that the config does not know, counted in the file."""
    root = tmp_path / "mine"
    write(root, coco(), "train.json")
    write(root, coco(), "val.json")
    config = detector(tmp_path, 'model = dict(bbox_head=dict(num_classes=80))\n'
                      'metainfo = None\nown_data = dict(passes=1)')  # fmt: skip
    text = (tmp_path / "small_base.py").read_text().replace("metainfo=dict(classes=", "x=dict(c=")
    (tmp_path / "small_base.py").write_text(text)
    words = ["--data", root, "--work-dir", tmp_path / "work", "--accumulate", "2", "--freeze", "1"]
    name = f"experiment_name={tmp_path.name}"
    assert call("train", config, *words, "--cfg-options", name) == (0, "")
    found = json.loads((tmp_path / "work" / "metrics.json").read_text())
    assert 0 <= found["metrics"]["coco/bbox_AP"] <= 1
    assert found["data"] == f"{root}/val.json"
    saved = Config.fromfile(tmp_path / "work" / "det.py")
    assert saved.train_dataloader.batch_size == 1 and saved.optim_wrapper.accumulative_counts == 2
    assert saved.model.backbone.frozen == 1 and saved.model.bbox_head.num_classes == 2
    wrong = [*words[:4], "--force", "--accumulate", "3", "--cfg-options", name]
    assert "--accumulate 3 does not divide the batch of 2" in refusal(call("train", config, *wrong))
