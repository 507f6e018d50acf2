"""Convolution at chosen places and the masks of point-wise attention, for the stand-in of
``mmcv._ext``.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). These kernels move numbers and compute none, so any type passes unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

COLLECT = 0  # the value of psa_type that mmcv sends for 'collect'; 1 is 'distribute'


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Copies the kernel's window of ``im [1,C,H,W]`` (zero outside) at each of M places into
    ``col [C*kernel_h*kernel_w, M]``.
    """
    # Beyond the padding a window may still reach over the far edges; mmcv reads zero there too.
    framed = functional.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    row = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None, None]
    column = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(framed[:, row, column].flatten(0, 2))  # [C, kernel_h, kernel_w, M]


def masked_col2im_forward(
    col: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    im: Tensor,
    height: int,
    width: int,
    channels: int,
) -> None:
    """Writes ``col [channels, M]`` to the M places of ``im [1,channels,height,width]``.

    Raises:
        IndexError: for a place outside the map, where mmcv's kernel would write into other memory.
    """
    im[0][:, mask_h_idx, mask_w_idx] = col.to(im.dtype)


def _shifts(places: int, shifts: int, half: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Along one axis, the place of the mask that links a source cell to a target cell,
    ``[target, source]``, and whether there is one: target - source + half.
    """
    cell = torch.arange(places, device=device)
    shift = cell[:, None] - cell + half
    return shift.clamp(0, shifts - 1), (shift >= 0) & (shift < shifts)


def _spread(masks: Tensor, psa_type: int, num_: int, **sizes: int) -> Tensor:
    """``[N,H*W,H*W]`` of ``masks [N,h_mask*w_mask,H,W]``, see :func:`psamask_forward`."""
    h, w, h_mask, w_mask = (sizes[key] for key in ("h_feature", "w_feature", "h_mask", "w_mask"))
    row, row_is_in = _shifts(h, h_mask, sizes["half_h_mask"], masks.device)
    column, column_is_in = _shifts(w, w_mask, sizes["half_w_mask"], masks.device)
    row = row[None, :, None, :, None].expand(num_, -1, w_mask, -1, w)
    column = column[None, None, :, None, :].expand(num_, h, -1, h, -1)
    spread = masks.reshape(num_, h_mask, w_mask, h, w).gather(1, row).gather(2, column)
    inside = row_is_in[:, None, :, None] & column_is_in[:, None, :]  # [y, x, h, w]: target, source
    spread = spread.masked_fill(~inside, 0).view(num_, h * w, h * w)
    return spread if psa_type == COLLECT else spread.transpose(1, 2)


def psamask_forward(input: Tensor, output: Tensor, psa_type: int, num_: int, **sizes: int) -> None:
    """Spreads each cell's mask ``input [N,h_mask*w_mask,H,W]``, centred on the cell, over the map
    (Zhao et al. 2018, PSANet).

    ``output [N,H*W,H,W]``: collect has [n, target, source], distribute [n, source, target]; zero
    where the mask does not reach. ``sizes``: ``h_feature, w_feature, h_mask, w_mask, half_h_mask,
    half_w_mask``, which mmcv sends by name.
    """
    spread = _spread(input, psa_type, num_, **sizes)
    output.view_as(spread).copy_(spread)


def psamask_backward(
    grad_output: Tensor, grad_input: Tensor, psa_type: int, num_: int, **sizes: int
) -> None:
    """Writes the gradient of :func:`psamask_forward` into ``grad_input [N,h_mask*w_mask,H,W]``.

    Each place of a mask reaches at most one target: nothing is summed, and nothing rounded.
    """
    with torch.enable_grad():
        masks = torch.zeros_like(grad_input).requires_grad_()
        spread = _spread(masks, psa_type, num_, **sizes)
    grad_input.copy_(torch.autograd.grad(spread, masks, grad_output.reshape(spread.shape))[0])


KERNELS = (masked_im2col_forward, masked_col2im_forward, psamask_forward, psamask_backward)
