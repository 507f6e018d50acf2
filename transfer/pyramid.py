"""SimplePyramid: one map of a plain ViT -> maps at strides 4, 8, 16, 32 (ViTDet, arXiv 2203.16527,
sec. 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from sparc_pretrain.registry import MODELS


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """Scales the last map by (de)convolution, then brings each scale to `out_channels`.

    Args:
        in_channels: Dv of the map. out_channels: of every output.
        strides: wanted strides, ascending powers of two from 4; those above 32 are max-pooled
            from the one before.
        in_stride: the map's stride, the backbone's patch.

    Raises:
        ValueError: a stride that cannot be made.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        strides: Sequence[int] = (4, 8, 16, 32),
        in_stride: int = 16,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.strides = tuple(strides)
        if not strides or list(strides) != sorted(set(strides)):
            raise ValueError(f"strides {self.strides}: name one or more in ascending order")
        levels = []
        for stride in self.strides:
            if stride > 2 * in_stride:
                if not levels or stride != 2 * self.strides[self.strides.index(stride) - 1]:
                    raise ValueError(
                        f"stride {stride} needs {stride // 2} before it in {self.strides}"
                    )
                continue
            levels.append(_level(in_channels, out_channels, in_stride, stride))
        self.levels = nn.ModuleList(levels)

    def forward(self, maps: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
        """maps: the backbone's outputs (the last is used), [B,in_channels,h,w] ->
        [B,out_channels,.,.] per stride.
        """
        last = maps if isinstance(maps, Tensor) else maps[-1]
        outputs = [level(last) for level in self.levels]
        while len(outputs) < len(self.strides):
            outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return tuple(outputs)


def _level(in_channels: int, out_channels: int, in_stride: int, stride: int) -> nn.Sequential:
    """Resampling from `in_stride` to `stride`, then 1x1 and 3x3 convolutions with layer norm."""
    layers: list[nn.Module] = []
    channels = in_channels
    if stride * 4 == in_stride:
        layers += [
            nn.ConvTranspose2d(channels, channels // 2, 2, 2),
            LayerNorm2d(channels // 2),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 2, channels // 4, 2, 2),
        ]
        channels //= 4
    elif stride * 2 == in_stride:
        layers.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        channels //= 2
    elif stride == in_stride * 2:
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    elif stride != in_stride:
        raise ValueError(f"stride {stride} cannot be made from a map of stride {in_stride}")
    return nn.Sequential(
        *layers,
        nn.Conv2d(channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    )
