"""Coordinates under bfloat16 autocast: regions and points are not rounded."""

from __future__ import annotations

import pytest
import torch

from transfer import mm
from transfer.mm import ops

STRIDES = [4, 8, 16, 32]


@pytest.fixture(scope="module", autouse=True)
def mmdet() -> None:
    with ops.using("standin"):
        mm.register("mmdet")
        yield


def pyramid(kind: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Maps whose two channels are the x and y of each cell, over 1024 px: RoIAlign reads off the
    place of a region.
    """
    maps = []
    for stride in STRIDES:
        places = (torch.arange(1024 // stride) + 0.5) * stride / 1024
        y, x = torch.meshgrid(places, places, indexing="ij")
        maps.append(torch.stack([x, y])[None].to(kind))
    return tuple(maps)


def test_regions_are_read_where_they_are() -> None:
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    extractor = SingleRoIExtractor(
        dict(type="RoIAlign", output_size=2, sampling_ratio=0), 2, STRIDES
    )
    generator = torch.Generator().manual_seed(0)
    corner = 500 + 400 * torch.rand(64, 2, generator=generator)
    side = 8 + 60 * torch.rand(64, 2, generator=generator)
    boxes = torch.cat([torch.zeros(64, 1), corner, corner + side], 1)
    whole = extractor(pyramid(torch.float32), boxes)
    half = extractor(pyramid(torch.bfloat16), boxes)
    assert half.dtype == torch.bfloat16
    # rounded are the maps and the result, not the regions
    coarse = extractor(tuple(m.float() for m in pyramid(torch.bfloat16)), boxes)
    assert torch.equal(half, coarse.bfloat16())
    assert (half.float() - whole).abs().max() < 2**-7
    rounded = extractor(pyramid(torch.float32), boxes.bfloat16().float())
    assert (rounded - whole).abs().max() * 1024 > 1.5  # what would be seen


def test_gradients_pass_in_the_type_of_the_maps() -> None:
    from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor

    extractor = SingleRoIExtractor(dict(type="RoIAlign", output_size=2, sampling_ratio=2), 2, [4])
    level = pyramid(torch.bfloat16)[0].requires_grad_()
    extractor((level,), torch.tensor([[0.0, 10.3, 10.7, 90.1, 80.9]])).float().sum().backward()
    assert level.grad.dtype == torch.bfloat16 and level.grad.float().sum() > 0


def test_points_and_anchors_are_whole_numbers_of_pixels_whatever_the_maps_type() -> None:
    from mmdet.models.task_modules import AnchorGenerator, MlvlPointGenerator

    points = MlvlPointGenerator([8])
    (found,) = points.grid_priors([(128, 128)], dtype=torch.bfloat16, device="cpu")
    (whole,) = points.grid_priors([(128, 128)], dtype=torch.float32, device="cpu")
    assert torch.equal(found, whole) and len(found.unique(dim=0)) == 128 * 128
    anchors = AnchorGenerator([8], ratios=[1.0], scales=[4])
    (found,) = anchors.grid_priors([(128, 128)], dtype=torch.bfloat16, device="cpu")
    assert found.dtype == torch.float32
    exact = points.grid_priors([(128, 128)], dtype=torch.float64, device="cpu")[0]
    assert exact.dtype == torch.float64  # others are as asked for
