"""Deformable pooling of regions (Dai et al. 2017, section 2.2) for the stand-in of ``mmcv._ext``.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Letters: N images, C channels, H x W map, R regions, P x Q bins. Half types are
computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from transfer.mm.ops.boxes import widen


def _pool(
    features: Tensor,
    rois: Tensor,
    offset: Tensor,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """RoIAlign of ``features [N,C,H,W]`` at ``rois [R,5]``, each bin moved by ``gamma`` times the
    region's size times its ``offset [R,2,P,Q]`` (x, y; or empty), ``[R,C,P,Q]``.

    Differentiable in features and offset.
    """
    rois = rois.to(features.dtype)
    start = rois[:, 1:3] * spatial_scale - 0.5  # (x, y), as in all of this function
    size = (rois[:, 3:] - rois[:, 1:3]) * spatial_scale
    bin_size = size / size.new_tensor(bins[::-1])
    samples = bin_size.ceil().long()
    if sampling_ratio > 0:
        samples = torch.full_like(samples, sampling_ratio)
    corner = torch.stack(_mesh(bins, rois), -1) * bin_size[:, None, None] + start[:, None, None]
    if offset.numel():
        corner = corner + gamma * size[:, None, None] * offset.permute(0, 2, 3, 1)
    pooled = features.new_zeros(len(rois), features.shape[1], *bins)
    for image, across, down in torch.cat([rois[:, :1].long(), samples], 1).unique(dim=0).tolist():
        if across <= 0 or down <= 0:
            continue
        alike = (samples == samples.new_tensor([across, down])).all(1) & (rois[:, 0] == image)
        chosen = alike.nonzero().squeeze(1)
        middle = (torch.stack(_mesh((down, across), rois), -1) + 0.5).flatten(0, 1)
        part = middle / middle.new_tensor([across, down]) * bin_size[chosen, None, None, None]
        value = _sample(features[image], corner[chosen, :, :, None] + part)  # [C, r, P, Q, S]
        pooled = pooled.index_copy(0, chosen, value.mean(-1).transpose(0, 1))
    return pooled


def _mesh(shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """The x and the y of each cell of a ``shape`` (rows, columns) table, in ``like``'s type."""
    rows, columns = (torch.arange(side, dtype=like.dtype, device=like.device) for side in shape)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return x, y


def _sample(plane: Tensor, places: Tensor) -> Tensor:
    """Bilinear values ``[C, ...]`` of ``plane [C,H,W]`` at ``places [..., 2]`` (x, y); 0 beyond one
    cell outside the map, the edge's value up to there.
    """
    sides = places.new_tensor([plane.shape[2], plane.shape[1]])
    inside = ((places >= -1) & (places <= sides)).all(-1)
    grid = ((2 * places + 1) / sides - 1).flatten(0, -2)[None, None]
    value = functional.grid_sample(
        plane[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return value.view(len(plane), *places.shape[:-1]) * inside


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Deformable RoI pooling of ``input [N,C,H,W]`` at ``rois [R,5]`` (image, x1, y1, x2, y2) into
    ``output [R,C,P,Q]``; ``offset [R,2,P,Q]`` or empty.
    """
    with torch.autocast(input.device.type, enabled=False):
        bins = (pooled_height, pooled_width)
        features = widen(input)
        pooled = _pool(
            features, rois, offset.to(features.dtype), bins, spatial_scale, sampling_ratio, gamma
        )
    output.copy_(pooled)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Writes the gradients of :func:`deform_roi_pool_forward` into ``grad_input`` and
    ``grad_offset``, which mmcv gives full of zeros.

    The true derivative also where a sample lies up to one cell outside the map: the value does not
    change there across the edge, and the gradient is 0 (mmcv's kernel extrapolates).
    """
    features = widen(input).detach().requires_grad_()
    moves = offset.to(features.dtype).detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(input.device.type, enabled=False):
        bins = (pooled_height, pooled_width)
        pooled = _pool(features, rois, moves, bins, spatial_scale, sampling_ratio, gamma)
    if not pooled.requires_grad:  # no region, or only empty ones
        return
    gradients = torch.autograd.grad(
        pooled, [features, moves], grad_output.to(features.dtype), allow_unused=not moves.numel()
    )
    grad_input.copy_(gradients[0])
    if moves.numel():
        grad_offset.copy_(gradients[1])


KERNELS = (deform_roi_pool_forward, deform_roi_pool_backward)
