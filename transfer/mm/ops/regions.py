"""Regions for the stand-in of ``mmcv._ext``: RoIAlign and RoIPool.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Letters: N images, C channels, H x W map, R regions, P x Q bins. Half types are
computed in float32 and cast back.
"""

from __future__ import annotations

import torch
import torchvision  # noqa: F401  (its import registers torch.ops.torchvision)
from torch import Tensor

from transfer.mm.ops.boxes import widen

MAX = 0  # the value of pool_mode that mmcv sends for 'max'; 1 is 'avg'
POOLED_AT_ONCE = 2**24  # values of RoIPool in memory
NOWHERE = -2.0  # an argmax coordinate that lies outside any map (a sample counts from -1 on)


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
    into ``output [R,C,P,Q]``.

    With ``pool_mode`` MAX the best sample's place goes into ``argmax_y`` and ``argmax_x``
    ``[R,C,P,Q]``. ``sampling_ratio`` 0 takes as many samples as a bin has cells.
    """
    features = widen(input)
    regions = rois.to(features.dtype)
    if pool_mode != MAX:
        output.copy_(
            torch.ops.torchvision.roi_align(
                features,
                regions,
                spatial_scale,
                aligned_height,
                aligned_width,
                sampling_ratio,
                aligned,
            )
        )
        return
    shift = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (regions[:, 1:] * spatial_scale - shift).unbind(1)
    region_h, region_w = y2 - y1, x2 - x1
    if not aligned:  # the first RoIAlign's rule
        region_h, region_w = region_h.clamp(min=1), region_w.clamp(min=1)
    bin_h, bin_w = region_h / aligned_height, region_w / aligned_width
    grid = torch.stack([bin_h, bin_w], 1).ceil().long()
    if sampling_ratio > 0:
        grid = torch.full_like(grid, sampling_ratio)
    output.zero_()
    argmax_y.fill_(NOWHERE)
    argmax_x.fill_(NOWHERE)
    for samples_h, samples_w in grid.unique(dim=0).tolist():
        if samples_h <= 0 or samples_w <= 0:
            continue
        chosen = (grid == grid.new_tensor([samples_h, samples_w])).all(1).nonzero().squeeze(1)
        y = _sample_places(y1[chosen], bin_h[chosen], aligned_height, samples_h)
        x = _sample_places(x1[chosen], bin_w[chosen], aligned_width, samples_w)
        image = regions[chosen, 0].long()[:, None, None]
        values = sum(
            weight[..., None] * features[image, :, row, column]
            for row, column, weight in _corners(y[:, :, None], x[:, None, :], *features.shape[2:])
        )  # [r, P * samples_h, Q * samples_w, C]
        values = values.unflatten(2, (aligned_width, samples_w))
        values = values.unflatten(1, (aligned_height, samples_h))
        value, best = values.permute(0, 5, 1, 3, 2, 4).flatten(4).max(4)  # [r, C, P, Q]
        output[chosen] = value.to(output.dtype)
        row = torch.arange(aligned_height, device=y.device)[:, None] * samples_h + best // samples_w
        column = torch.arange(aligned_width, device=x.device) * samples_w + best % samples_w
        argmax_y[chosen] = y.gather(1, row.flatten(1)).view_as(value).to(argmax_y.dtype)
        argmax_x[chosen] = x.gather(1, column.flatten(1)).view_as(value).to(argmax_x.dtype)


def _sample_places(start: Tensor, size: Tensor, bins: int, samples: int) -> Tensor:
    """Coordinates ``[R, bins * samples]`` along one axis: the middles of ``samples`` equal parts of
    each bin.
    """
    bin_ = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    part = torch.arange(samples, device=start.device, dtype=start.dtype) + 0.5
    size = size[:, None, None]
    return (start[:, None, None] + bin_ * size + part * size / samples).flatten(1)


def _corners(y: Tensor, x: Tensor, height: int, width: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The four cells round (y, x) as (row, column, bilinear weight); weight 0 beyond one cell
    outside the map.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.long(), x.long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    return [
        (top, left, (1 - down) * (1 - across) * inside),
        (top, right, (1 - down) * across * inside),
        (bottom, left, down * (1 - across) * inside),
        (bottom, right, down * across * inside),
    ]


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
    regions = rois.to(gradient.dtype)
    if pool_mode != MAX:
        grad_input += torch.ops.torchvision._roi_align_backward(
            gradient,
            regions,
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
        return
    total = torch.zeros_like(grad_input, dtype=gradient.dtype)
    image = regions[:, 0].long()[:, None, None, None]
    channel = torch.arange(grad_input.shape[1], device=image.device)[:, None, None]
    y, x = argmax_y.to(gradient.dtype), argmax_x.to(gradient.dtype)
    for row, column, weight in _corners(y, x, *grad_input.shape[2:]):
        total.index_put_((image, channel, row, column), gradient * weight, accumulate=True)
    grad_input += total


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool of ``input [N,C,H,W]`` at ``rois [R,5]`` into ``output [R,C,P,Q]``; ``argmax`` int =
    row * W + column, -1 for none.

    Written out because mmcv takes x2 + 1 and does not round, where torchvision rounds the region
    first.
    """
    height, width = input.shape[2:]
    output.zero_()
    argmax.fill_(-1)
    regions = widen(rois)
    x1, y1 = (regions[:, 1:3] * spatial_scale).unbind(1)
    x2, y2 = ((regions[:, 3:] + 1) * spatial_scale).unbind(1)
    rows = _pool_edges(y1, y2, pooled_height, height)
    columns = _pool_edges(x1, x2, pooled_width, width)
    sides = torch.stack([(edges[..., 1] - edges[..., 0]).amax(1) for edges in (rows, columns)], 1)
    filled = (x2 > x1) & (y2 > y1) & (sides > 0).all(1)
    for down, across in sides[filled].unique(dim=0).tolist():
        alike = filled & (sides == sides.new_tensor([down, across])).all(1)
        values = pooled_height * pooled_width * down * across * input.shape[1]
        for chosen in alike.nonzero().squeeze(1).split(max(1, POOLED_AT_ONCE // values)):
            row = _pool_cells(rows[chosen], down, height)[:, :, None, :, None]
            column = _pool_cells(columns[chosen], across, width)[:, None, :, None, :]
            image = rois[chosen, 0].long().view(-1, 1, 1, 1, 1)
            value, best = input[image, :, row, column].flatten(3, 4).max(3)  # [r, P, Q, C]
            cell = (row * width + column).flatten(3).gather(3, best)
            some = [(edges[chosen, :, 1] > edges[chosen, :, 0]) for edges in (rows, columns)]
            empty = ~(some[0][:, :, None] & some[1][:, None, :])[..., None]
            output[chosen] = value.masked_fill(empty, 0).permute(0, 3, 1, 2)
            argmax[chosen] = cell.masked_fill(empty, -1).permute(0, 3, 1, 2).to(argmax.dtype)


def _pool_edges(start: Tensor, end: Tensor, bins: int, limit: int) -> Tensor:
    """First cell and one past the last of each bin along one axis, ``[R,bins,2]`` long; bins of one
    region may overlap.
    """
    edges = torch.arange(bins + 1, device=start.device) * ((end - start) / bins)[:, None]
    edges = edges + start[:, None]
    both = torch.stack([edges[:, :-1].floor(), edges[:, 1:].ceil()], 2)
    return both.clamp(0, limit).long()


def _pool_cells(edges: Tensor, number: int, limit: int) -> Tensor:
    """The cells of each bin ``[r,bins,number]``; shorter bins repeat their last one, which changes
    no maximum.
    """
    cell = edges[..., :1] + torch.arange(number, device=edges.device)
    return cell.minimum(edges[..., 1:] - 1).clamp(0, limit - 1)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds each gradient of ``grad_output [R,C,P,Q]`` to the cell of ``grad_input [N,C,H,W]`` that
    was the greatest.
    """
    gradient = widen(grad_output)
    total = torch.zeros_like(grad_input, dtype=gradient.dtype).flatten(2)
    image = rois[:, 0].long()[:, None, None, None]
    channel = torch.arange(grad_input.shape[1], device=image.device)[:, None, None]
    cell = argmax.long()
    total.index_put_((image, channel, cell.clamp(min=0)), gradient * (cell >= 0), accumulate=True)
    grad_input += total.view_as(grad_input)


KERNELS = (
    roi_align_forward,
    roi_align_backward,
    roi_pool_forward,
    roi_pool_backward,
)
