"""Patches of mmcv, mmdet and mmseg: what an ordinary user of those packages runs into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from mmengine.config import utils as config_utils

from transfer import mm
from transfer.mm import ops, patches

ROOT = Path(__file__).parents[3]

FRESH = """
import sys, warnings
import transfer
assert not {"mmdet", "mmseg"} & set(sys.modules), "import transfer is not cheap"
warnings.simplefilter("error")
transfer.mm.register("mmdet", "mmseg")
from mmdet.registry import MODELS as detectors
from mmseg.registry import MODELS as segmentors
assert {"MaskRCNN", "DINO"} <= set(detectors.module_dict)
assert {"EncoderDecoder", "UPerHead"} <= set(segmentors.module_dict)
import mmdet.apis, mmseg.apis
from mmcv.utils import collect_env
assert "MMCV Compiler" in collect_env()
print("done")
"""


@pytest.fixture(scope="module")
def fresh() -> subprocess.CompletedProcess[str]:
    """A new Python that imports transfer, then everything of mmdet and mmseg; warnings raise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop(ops.SWITCH, None)
    return subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, env=environment, timeout=120
    )


def test_transfer_imports_without_mmdet_which_then_imports_without_a_warning(
    fresh: subprocess.CompletedProcess[str],
) -> None:
    assert fresh.returncode == 0, fresh.stderr


def test_registering_writes_nothing_to_standard_output(
    fresh: subprocess.CompletedProcess[str],
) -> None:
    assert fresh.stdout == "done\n"


@pytest.mark.parametrize(
    "base,kind",
    [
        ("mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py", "EncoderDecoder"),
        ("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "MaskRCNN"),
    ],
)
def test_a_config_may_stand_on_one_of_an_installed_package(
    base: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # for each base mmengine would read all metafiles of the package, which takes seconds
    metafiles = "mmengine.config.utils._get_cfg_metainfo"
    monkeypatch.setattr(metafiles, lambda *_: pytest.fail("metafiles are read"))
    config = Config.fromstring(f"_base_ = '{base}'\nmodel = dict(backbone=dict(depth=18))", ".py")
    assert config.model.type == kind and config.model.backbone.depth == 18


def test_a_base_that_does_not_exist_is_named_in_the_error() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-thing"):
        Config.fromstring("_base_ = 'mmseg::upernet/no-such-thing.py'", ".py")


def test_a_stock_segmentor_takes_a_loss_step_and_predicts() -> None:
    mm.register("mmseg")
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    leaf = """
_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'
norm = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(64, 64)), pretrained=None,
    backbone=dict(depth=18, norm_cfg=norm),
    decode_head=dict(in_channels=512, channels=32, num_classes=4, norm_cfg=norm),
    auxiliary_head=dict(in_channels=256, channels=32, num_classes=4, norm_cfg=norm))
"""
    model = MODELS.build(Config.fromstring(leaf, ".py").model)
    sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64)})
    sample.gt_sem_seg = PixelData(data=torch.arange(4).repeat_interleave(1024).view(1, 64, 64))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    data = {"inputs": [image, image], "data_samples": [sample, sample]}
    losses = model(**model.data_preprocessor(data, training=True), mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite() and model.backbone.layer3[0].conv1.weight.grad.abs().sum() > 0
    model.eval()
    results = model(**model.data_preprocessor({"inputs": [image]}), mode="predict")
    assert results[0].pred_sem_seg.data.shape == (1, 64, 64)


def test_the_lvis_package_evaluates_on_numpy_2(tmp_path: Path) -> None:
    lvis = pytest.importorskip("lvis")
    mm.register("mmdet")
    mm.register("mmdet")
    box = {"image_id": 1, "category_id": 1, "bbox": [10.0, 10.0, 50.0, 40.0], "area": 2000.0}
    truth = {
        "images": [
            {"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": [], "height": 100}
        ],
        "categories": [{"id": 1, "name": "cat", "frequency": "f"}],
        "annotations": [{**box, "id": 1, "segmentation": [[10, 10, 60, 10, 60, 50, 10, 50]]}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    annotations = lvis.LVIS(str(tmp_path / "truth.json"))
    found = lvis.LVISResults(annotations, [{**box, "score": 0.9}])
    evaluation = lvis.LVISEval(annotations, found, "bbox")
    evaluation.run()
    assert evaluation.get_results()["AP"] == pytest.approx(1.0)


def test_advice_to_pip_install_names_the_fork_and_not_the_package_that_would_overwrite_it() -> None:
    assert config_utils.MODULE2PACKAGE["mmseg"] == "onedl-mmsegmentation"
    assert config_utils.MODULE2PACKAGE["mmdet"] == "onedl-mmdetection"


@pytest.mark.parametrize(
    "installed,expected",
    [
        ({"mmsegmentation"}, "mmsegmentation"),
        ({"mmsegmentation", "onedl-mmsegmentation"}, "onedl-mmsegmentation"),
        (set(), "onedl-mmsegmentation"),
    ],
)
def test_the_original_keeps_its_name_only_where_the_fork_is_absent(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], expected: str
) -> None:
    monkeypatch.setattr(config_utils, "MODULE2PACKAGE", dict(config_utils.MODULE2PACKAGE))
    monkeypatch.setattr(patches, "_installed", installed.__contains__)
    mm.mend_external_bases()
    assert config_utils.MODULE2PACKAGE["mmseg"] == expected


def test_installing_again_changes_nothing_and_mends_mmengine_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    monkeypatch.setattr(patches.mmengine_patches, "install", lambda: calls.append("foreign"))
    before = sys.modules[ops.EXTENSION], dict(config_utils.MODULE2PACKAGE)
    mm.install()
    mm.install()
    assert (sys.modules[ops.EXTENSION], config_utils.MODULE2PACKAGE) == before
    assert calls == ["foreign", "foreign"]


def test_registering_an_unknown_scope_is_an_error() -> None:
    with pytest.raises(ValueError, match="scope 'mmpose': must be one of mmdet, mmseg"):
        mm.register("mmpose")


def test_registering_an_absent_package_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named '{name}'", name="mmseg")

    monkeypatch.setattr(patches.importlib, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .* onedl-mmsegmentation"):
        mm.register("mmseg")


def test_registering_passes_on_all_that_is_printed_but_the_false_alarm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def talkative(name: str) -> None:
        print(f"Could not import OneDL. Skipping OneDL datasets.\n{name} has something to say")

    monkeypatch.setattr(patches.importlib, "import_module", talkative)
    mm.register("mmseg")
    assert "OneDL" not in (said := capsys.readouterr().out)
    assert "mmseg.models has something to say" in said
