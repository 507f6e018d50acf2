"""What our detection recipes do to pixels and weights: as ViTDet's, where they say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from tests.commands import ROOT
from transfer import mm

LEAVES = sorted(p for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts)
SQUARE = ("sparc_coco", "sparc_coco_cascade", "sparc_lvis", "sparc_coco_l14")


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_no_recipe_evaluates_an_average_that_has_not_forgotten_its_start(path: Path) -> None:
    hooks = Config.fromfile(path).get("custom_hooks") or []
    averages = [hook for hook in hooks if hook.get("type") == "EMAHook"]
    assert all(hook.get("ema_type") == "ExpMomentumEMA" for hook in averages)


@pytest.mark.parametrize("name", SQUARE)
def test_a_photograph_is_padded_after_its_normalisation_and_boxes_end_where_it_ends(
    name: str, tmp_path: Path
) -> None:
    mm.register("mmdet")
    cfg = Config.fromfile(ROOT / "configs" / "det" / f"{name}.py")
    Image.fromarray(np.full((60, 90, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    dataset = cfg.test_dataloader.dataset
    steps = [s for s in dataset.pipeline if s.type != "LoadAnnotations"]
    with DefaultScope.overwrite_default_scope("mmdet"):
        row = Compose(steps)({"img_path": str(tmp_path / "photo.png"), "img_id": 1})
        pixels = MODELS.build(cfg.model.data_preprocessor)
    data = pixels(pseudo_collate([row]), training=False)
    (sample,) = data["data_samples"]
    assert sample.img_shape == (683, 1024)  # what boxes are clipped to
    assert data["inputs"].shape == (1, 3, 1024, 1024)
    assert not data["inputs"][:, :, 683:].any() and (data["inputs"][:, :, :683] > 0.5).all()
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    train = DetDataSample(metainfo=dict(img_shape=(500, 700)))
    train.gt_instances = InstanceData(bboxes=torch.zeros(0, 4))
    batch = dict(inputs=[torch.full((3, 500, 700), 200, dtype=torch.uint8)], data_samples=[train])
    inputs = pixels(batch, training=True)["inputs"]
    assert inputs.shape == (1, 3, 1024, 1024) and not inputs[:, :, 500:].any()
