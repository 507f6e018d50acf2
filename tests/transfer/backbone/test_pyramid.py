"""SimplePyramid: one map in, a map per stride out."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from transfer.backbone.pyramid import SimplePyramid

STRIDES = (4, 8, 16, 32, 64)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 96), (16, 48), (336, 80)])
def test_every_stride_has_its_size_for_any_image(height: int, width: int) -> None:
    pyramid = SimplePyramid(in_channels=24, out_channels=8, strides=STRIDES)
    found = pyramid([torch.randn(2, 24, height // 16, width // 16)])
    assert [tuple(level.shape) for level in found] == [
        (2, 8, math.ceil(height / s), math.ceil(width / s)) for s in STRIDES
    ]


def test_a_map_of_stride_8_is_made_into_the_same_strides() -> None:
    pyramid = SimplePyramid(8, 8, strides=STRIDES, in_stride=8)
    found = pyramid(torch.randn(1, 8, 16, 16))
    assert [level.shape[-1] for level in found] == [128 // s for s in STRIDES]


def test_its_levels_are_those_of_vitdet() -> None:
    """arXiv 2203.16527, app. A.2: two deconvolutions with norm and GELU in between for stride 4,
    one for 8, none for 16, max pooling for 32; then a 1x1 and a 3x3 convolution with norms.
    """
    torch.manual_seed(0)
    pyramid = SimplePyramid(64, 8, strides=(4, 8, 16, 32, 64))
    for parameter in pyramid.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 64, 5, 7)
    found = pyramid(x)
    for level, stride, output in zip(pyramid.levels, (4, 8, 16, 32), found, strict=False):
        layers = iter(level)

        def norm(y: torch.Tensor, layers=layers) -> torch.Tensor:
            layer = next(layers)
            mean = y.mean(1, keepdim=True)
            spread = ((y - mean) ** 2).mean(1, keepdim=True) + layer.eps
            scaled = (y - mean) / spread.sqrt()
            return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]

        y = x
        if stride == 32:
            next(layers)
            y = F.max_pool2d(y, 2, 2, ceil_mode=True)
        for n in range({4: 2, 8: 1}.get(stride, 0)):
            if n:
                y = norm(y)
                next(layers)
                y = F.gelu(y)
            deconvolution = next(layers)
            y = F.conv_transpose2d(y, deconvolution.weight, deconvolution.bias, stride=2)
        y = norm(F.conv2d(y, next(layers).weight))
        y = norm(F.conv2d(y, next(layers).weight, padding=1))
        assert next(layers, None) is None
        torch.testing.assert_close(output, y)
    torch.testing.assert_close(found[4], found[3][..., ::2, ::2])


def test_only_the_last_of_several_maps_is_read() -> None:
    pyramid = SimplePyramid(8, 8)
    first, last = torch.randn(2, 1, 8, 4, 4)
    for a, b in zip(pyramid((first, last)), pyramid(last), strict=True):
        assert torch.equal(a, b)


def test_every_weight_gets_a_gradient() -> None:
    pyramid = SimplePyramid(8, 8, strides=STRIDES)
    sum(level.square().mean() for level in pyramid(torch.randn(1, 8, 4, 4))).backward()
    assert all(p.grad.abs().sum() > 0 for p in pyramid.parameters())


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ((64,), "stride 64 needs 32 before it"),
        ((4, 8, 64), "stride 64 needs 32 before it"),
        ((12,), "stride 12 cannot be made"),
        ((32, 64, 16), "ascending"),
        ((8, 8), "ascending"),
        ((), "ascending"),
    ],
)
def test_a_stride_that_cannot_be_made_is_refused(strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimplePyramid(8, 8, strides=strides)


def test_a_map_per_stride_comes_in_any_order_with_channels_of_its_own() -> None:
    strides, channels = (8, 8, 1, 64, 4), (6, 10, 3, 12, 5)
    pyramid = SimplePyramid(32, channels, strides=strides, mix=False)
    found = pyramid(torch.randn(1, 32, 4, 8))
    assert [tuple(level.shape[1:]) for level in found] == [
        (c, math.ceil(64 / s), math.ceil(128 / s)) for s, c in zip(strides, channels, strict=True)
    ]


def test_a_level_that_nobody_reads_has_no_weights() -> None:
    pyramid = SimplePyramid(8, (0, 4), strides=(4, 16), mix=False)
    map_ = torch.randn(1, 8, 2, 2)
    first, second = pyramid(map_)
    assert first is map_ and second.shape[1] == 4
    assert not list(pyramid.levels[0].parameters())


def test_levels_may_read_a_map_each_and_pool_it() -> None:
    pyramid = SimplePyramid(8, (8, 8), strides=(16, 16), mix=False, each=True, pooled=True)
    maps = torch.randn(2, 3, 8, 4, 4).unbind()
    for (level, vector), map_ in zip(pyramid(maps), maps, strict=True):
        assert level is map_  # nothing to resample, nothing to project
        torch.testing.assert_close(vector, map_.mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="1 maps for 2 levels"):
        pyramid(maps[0])


def test_channels_must_be_told_for_every_stride() -> None:
    with pytest.raises(ValueError, match="one for each"):
        SimplePyramid(8, (8, 8), strides=(4,))
