"""SimplePyramid: maps of a plain ViT -> maps at strides 4, 8, 16, 32 (ViTDet, arXiv 2203.16527,
sec. 3), or at whatever strides and channels a neck or head was built for.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.registry import MODELS

NARROW = 8  # channels below which a deconvolution halves no further (stride 1 from a tiny ViT)


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """Scales a map by (de)convolution, then brings each scale to its channels.

    Args:
        in_channels: Dv of the maps. out_channels: of every output, or one number per stride; 0 =
            nobody reads this level, so it has no weights and passes its map on as it is.
        strides: wanted strides, powers of two. With one number for `out_channels` they ascend,
            and those above twice `in_stride` are max-pooled from the one before (ViTDet's);
            with one per stride any order and repetitions are taken (dilated ResNets, hourglasses,
            decoders) and every level has weights of its own.
        in_stride: the maps' stride, the backbone's patch.
        mix: a 3x3 convolution after the 1x1, as in ViTDet; without it a level is resampled and
            projected only, for heads and necks that convolve on their own.
        each: level i reads map i, for heads that want several depths of a ViT; else all read the
            last.
        pooled: every output is [map, mean over the map]: the pooled vector takes the class
            token's part.

    Raises:
        ValueError: a stride that cannot be made.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | Sequence[int] = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        in_stride: int = 16,
        mix: bool = True,
        each: bool = False,
        pooled: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.strides, self.each, self.pooled = tuple(strides), each, pooled
        single = isinstance(out_channels, int)
        if not strides or (single and list(strides) != sorted(set(strides))):
            raise ValueError(f"strides {self.strides}: name one or more in ascending order")
        widths = [out_channels] * len(strides) if single else list(out_channels)
        if len(widths) != len(strides):
            raise ValueError(f"out_channels {widths} for strides {self.strides}: one for each")
        levels: list[nn.Module] = []
        for i, (stride, width) in enumerate(zip(self.strides, widths, strict=True)):
            if single and stride > 2 * in_stride:
                if not levels or stride != 2 * self.strides[i - 1]:
                    raise ValueError(
                        f"stride {stride} needs {stride // 2} before it in {self.strides}"
                    )
                continue
            if width == 0 or (not mix and (width, stride) == (in_channels, in_stride)):
                levels.append(nn.Identity())
            else:
                levels.append(_level(in_channels, width, in_stride, stride, mix))
        self.levels = nn.ModuleList(levels)

    def forward(self, maps: Sequence[Tensor] | Tensor) -> tuple:
        """maps: the backbone's outputs, [B,in_channels,h,w]; the last is used, or each by its
        level -> [B,out_channels,.,.] per stride (with `pooled`: [map, [B,out_channels]]).
        """
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        if self.each and len(maps) != len(self.strides):
            raise ValueError(f"{len(maps)} maps for {len(self.strides)} levels that read one each")
        outputs = [level(maps[i if self.each else -1]) for i, level in enumerate(self.levels)]
        outputs = [output.contiguous() for output in outputs]  # some heads take views of them
        while len(outputs) < len(self.strides):
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        if self.pooled:
            return tuple([output, output.mean(dim=(2, 3))] for output in outputs)
        return tuple(outputs)


def _level(
    channels: int, out_channels: int, in_stride: int, stride: int, mix: bool
) -> nn.Sequential:
    """Resampling from `in_stride` to `stride`, then a 1x1 and, with `mix`, a 3x3 convolution, each
    with layer norm.
    """
    larger, smaller = max(in_stride, stride), max(min(in_stride, stride), 1)
    factor = larger // smaller
    if larger % smaller or factor & (factor - 1):
        raise ValueError(f"stride {stride} cannot be made from a map of stride {in_stride}")
    layers: list[nn.Module] = []
    if stride > in_stride:
        layers.append(nn.MaxPool2d(factor, factor, ceil_mode=True))
    while stride < in_stride:
        narrower = max(channels // 2, NARROW)
        layers.append(nn.ConvTranspose2d(channels, narrower, 2, 2))
        channels, in_stride = narrower, in_stride // 2
        if stride < in_stride:
            layers += [LayerNorm2d(channels), nn.GELU()]
    layers += [nn.Conv2d(channels, out_channels, 1, bias=False), LayerNorm2d(out_channels)]
    if mix:
        layers += [
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        ]
    return nn.Sequential(*layers)
