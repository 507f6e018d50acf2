"""Test-time augmentation: the wrapped model sees every scale and flip, and its weights are loaded
as if it stood alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from PIL import Image
from torch import Tensor

from transfer import mm
from transfer.run.augmented_tests import augment_tests
from transfer.run.recipe import single_process_norms

ROOT = Path(__file__).parents[3]


def small() -> Config:
    mm.register("mmseg")
    cfg = Config.fromfile(ROOT / "configs" / "quickstart" / "seg.py")
    cfg.model.backbone.vision = dict(
        arch="vit_tiny_patch16_224",
        img_size=64,
        width=24,
        overrides=dict(embed_dim=24, depth=2, num_heads=2),
    )
    cfg.model.neck.update(in_channels=24, out_channels=32)
    cfg.model.decode_head.update(in_channels=[32] * 4, channels=32)
    single_process_norms(cfg.model)
    return cfg


def predicted(model: torch.nn.Module, pipeline: list[dict], folder: Path, mirror: bool) -> Tensor:
    """Classes [H,W] of a noise image, or of its mirror image."""
    pixels = np.random.default_rng(0).integers(256, size=(48, 80, 3), dtype=np.uint8)
    pixels = pixels[:, ::-1] if mirror else pixels
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(np.ones((48, 80), np.uint8)).save(folder / "map.png")
    row = dict(img_path=str(folder / "image.png"), seg_map_path=str(folder / "map.png"))
    row.update(label_map=None, reduce_zero_label=True, seg_fields=[])
    for transform in pipeline:
        row = TRANSFORMS.build(transform)(row)
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([row]))
    return sample.pred_sem_seg.data[0]


def test_with_flips_the_mirror_image_has_the_mirrored_prediction(tmp_path: Path) -> None:
    cfg = small()
    plain_pipeline = cfg.test_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope("mmseg"):
        torch.manual_seed(0)
        plain = MODELS.build(cfg.model).eval()
        augment_tests(cfg)
        model = MODELS.build(cfg.model).eval()
        assert type(model).__name__ == "SegTTAModel"
        # as tools/test.py does it: strictly, from a checkpoint of the plain model
        _load_checkpoint_to_model(model, {"state_dict": plain.state_dict()}, strict=True)
        pipeline = cfg.test_dataloader.dataset.pipeline
        first, second = (predicted(model, pipeline, tmp_path, m) for m in (False, True))
        alone = [predicted(plain, plain_pipeline, tmp_path, m) for m in (False, True)]
    assert first.shape == (48, 80) and len(first.unique()) > 1
    assert (first == second.flip(-1)).float().mean() > 0.99
    assert (alone[0] == alone[1].flip(-1)).float().mean() < 0.99


def test_the_innermost_data_set_gets_the_pipeline() -> None:
    inner = dict(type="Inner", pipeline=[])
    cfg = Config(
        dict(
            model=dict(type="M"),
            tta_model=dict(type="T"),
            tta_pipeline=[dict(type="A")],
            test_dataloader=dict(dataset=dict(type="Outer", dataset=inner)),
        )
    )
    augment_tests(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline == [dict(type="A")]
    assert cfg.model == dict(type="T", module=dict(type="M"))


def test_a_config_without_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="no tta_pipeline"):
        augment_tests(Config(dict(model=dict())))
