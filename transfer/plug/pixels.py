"""The pixels a backbone gets: every preprocessor of a config as the run was trained."""

from __future__ import annotations

import math

from mmengine.config import Config, ConfigDict

from sparc_pretrain import run_folder
from transfer.plug.replace import STRIDE, Ledger
from transfer.plug.walk import dicts

# mm's own, which a SparcViT gets its pixels from
PREPROCESSORS = ("DetDataPreprocessor", "SegDataPreProcessor")
_DIVISORS = {"mmdet": ("pad_size_divisor",)}


def normalise(
    cfg: Config, opened: run_folder.RunFolder, scope: str, foreign: bool, ledger: Ledger
) -> None:
    """Every preprocessor normalises as the run was trained, on RGB, and pads to whole patches."""
    mean = [round(255 * v, 4) for v in opened.config["mean"]]  # no rounding noise in the dry run
    std = [round(255 * v, 4) for v in opened.config["std"]]
    model = cfg.get("model") or ConfigDict()
    if foreign and not model.get("data_preprocessor") and not cfg.get("data_preprocessor"):
        kind = "SegDataPreProcessor" if scope == "mmseg" else "DetDataPreprocessor"
        model.data_preprocessor = ConfigDict(type=kind)
    parts = list(dicts(model, "model"))
    if "data_preprocessor" in cfg:  # a Runner gives it to a model that has none
        parts += dicts(cfg.data_preprocessor, "data_preprocessor")
    for path, part in parts:
        own = path.endswith("data_preprocessor") and "data_preprocessor" not in part
        kind = str(part.get("type")).split(".")[-1]
        if not (own and (foreign or kind in PREPROCESSORS)) and not (
            part.get("mean") is not None and "std" in part
        ):
            continue
        ledger.set(part, path, "mean", mean, "as the run was trained")
        ledger.set(part, path, "std", std, "as the run was trained")
        if (own and kind in PREPROCESSORS) or foreign or "bgr_to_rgb" in part:
            ledger.set(part, path, "bgr_to_rgb", True, "the run was trained on RGB, mm reads BGR")
            part.pop("rgb_to_bgr", None)
        if foreign:
            for key in ("pad_size_divisor", "size_divisor"):
                told = part.get(key) or (1 if key in _DIVISORS.get(scope, ()) else None)
                if told:
                    whole_patches = math.lcm(told, STRIDE)
                    ledger.set(part, path, key, whole_patches, "whole patches")
        test = part.get("test_cfg") or ConfigDict()
        if kind == "SegDataPreProcessor" and not test.get("size"):
            # else the map of a photograph that is not whole patches is stretched over it
            padded = math.lcm(test.get("size_divisor") or 1, STRIDE)
            padding = ConfigDict(test, size_divisor=padded)
            reason = "whole patches; the padding is cut off the prediction"
            ledger.set(part, path, "test_cfg", padding, reason)
