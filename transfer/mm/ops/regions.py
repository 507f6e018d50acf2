"""Regions for the stand-in of ``mmcv._ext``: RoIAlign.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Letters: N images, C channels, H x W map, R regions, P x Q bins. Half types are
computed in float32 and cast back. No config of mmdet or mmseg asks for the greatest value of a bin
(``pool_mode='max'``) or for RoIPool: both raise.
"""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (its import registers torch.ops.torchvision)
from torch import Tensor

from transfer.mm.ops.boxes import widen

AVERAGE = 1  # the value of pool_mode that mmcv sends for 'avg'; 0 is 'max'


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al. 2017) of ``input [N,C,H,W]`` at ``rois [R,5]`` (image, x1, y1, x2, y2)
    into ``output [R,C,P,Q]``. ``sampling_ratio`` 0 takes as many samples as a bin has cells.

    Raises:
        NotImplementedError: for ``pool_mode='max'``.
    """
    if pool_mode != AVERAGE:
        raise NotImplementedError(
            "RoIAlign with pool_mode='max' has no torchvision stand-in: use pool_mode='avg', or "
            "compile mmcv"
        )
    features = widen(input)
    output.copy_(
        torch.ops.torchvision.roi_align(
            features,
            rois.to(features.dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds to ``grad_input [N,C,H,W]`` what ``grad_output [R,C,P,Q]`` sends through
    :func:`roi_align_forward`.
    """
    gradient = widen(grad_output)
    grad_input += torch.ops.torchvision._roi_align_backward(
        gradient,
        rois.to(gradient.dtype),
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )


KERNELS = (roi_align_forward, roi_align_backward)
