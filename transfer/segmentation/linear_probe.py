"""The linear probe of frozen backbones: batch norm, then one 1x1 convolution (DINOv2, arXiv
2304.07193, sec. 7.4, whose code calls it BNHead).

It derives from mmseg's heads, whose import takes seconds: configs name this module in
`custom_imports`.
"""

from __future__ import annotations

from typing import Any

from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor

from sparc_pretrain.registry import MODELS


@MODELS.register_module()
class LinearProbeHead(BaseDecodeHead):
    """A class of each cell of one map by a linear function of its normalised channels.

    mmseg's FCNHead with `num_convs=0` has no norm, whatever its `norm_cfg` says.

    Args:
        in_channels: Dv of the map that `in_index` names. num_classes, norm_cfg, dropout_ratio and
            the others: as BaseDecodeHead has them.
    """

    def __init__(self, in_channels: int, norm_cfg: dict[str, Any], **options: Any) -> None:
        super().__init__(
            in_channels=in_channels, channels=in_channels, norm_cfg=norm_cfg, **options
        )
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Maps [B,Dv,h,w] -> logits [B,num_classes,h,w]."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))
