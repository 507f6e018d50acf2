"""Test-time augmentation as mm configs describe it: several scales and flips of every image, their
predictions averaged.
"""

from __future__ import annotations

from mmengine.config import Config, ConfigDict


def augment_tests(cfg: Config) -> Config:
    """Put ``tta_pipeline`` into the innermost test data set and the model into ``tta_model``, in
    place; checkpoints are loaded into the model inside.

    Raises:
        ValueError: the config has no test-time augmentation.
    """
    for key in ("tta_pipeline", "tta_model"):
        if key not in cfg:
            raise ValueError(f"--tta: the config has no {key}, see mmseg's data set configs")
    inner = cfg.test_dataloader.dataset
    while "dataset" in inner:
        inner = inner.dataset
    inner.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    return cfg
