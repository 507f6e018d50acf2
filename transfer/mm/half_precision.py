"""Coordinates stay float32 under bfloat16 autocast (``--amp``).

bfloat16 has 8 bits: above 256 px it counts in steps of 2, above 512 in steps of 4. mmdet turns
regions, points and anchors into the type of the maps, which was made for float16 with its 11.
"""

from __future__ import annotations

import sys
from functools import wraps
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
GENERATORS = {
    "point_generator": ("MlvlPointGenerator",),
    "anchor_generator": ("AnchorGenerator",),
}


def mend_half_precision() -> None:
    """Lets mmdet's RoI extractors and prior generators keep coordinates in float32, if mmdet's
    import brought them. Idempotent.

    Reason: `rois.type_as(feats)` moves the sides of a box of 8 to 68 px by up to 4 px: the mean IoU
    with its rounded self is 0.90. Heads without anchors ask for points in the maps' type.
    Delete when: mmdet keeps them in float32.
    """
    module = sys.modules.get("mmdet.models.roi_heads.roi_extractors.single_level_roi_extractor")
    if module is not None:
        kind = module.SingleRoIExtractor
        kind.forward = _once(kind.forward, _whole_regions)
    place = "mmdet.models.task_modules.prior_generators"
    for file, names in GENERATORS.items():
        for name in names:
            kind = getattr(sys.modules.get(f"{place}.{file}"), name, None)
            if kind is not None:
                kind.single_level_grid_priors = _once(kind.single_level_grid_priors, _whole_priors)


def _once(function: Any, wrap: Any) -> Any:
    return function if hasattr(function, "whole") else wrap(function)


def _whole_regions(forward: Any) -> Any:
    """`forward` on float32 maps and regions, its result in the maps' type: a compiled kernel wants
    one type, and the stand-in computes in float32 anyway.
    """

    @wraps(forward)
    def extract(
        self: Any, feats: tuple[Tensor, ...], rois: Tensor, *args: Any, **kw: Any
    ) -> Tensor:
        kind = feats[0].dtype
        if kind not in HALF:
            return forward(self, feats, rois, *args, **kw)
        return forward(self, tuple(f.float() for f in feats), rois.float(), *args, **kw).to(kind)

    extract.whole = True
    return extract


def _whole_priors(generate: Any) -> Any:
    """`generate` in float32 where half a type is asked for."""

    @wraps(generate)
    def priors(self: Any, *args: Any, **kw: Any) -> Tensor:
        args = tuple(torch.float32 if a in HALF else a for a in args)
        if kw.get("dtype") in HALF:
            kw["dtype"] = torch.float32
        return generate(self, *args, **kw)

    priors.whole = True
    return priors
