"""CARAFE, content-aware upsampling (Wang et al. 2019), for the stand-in of ``mmcv._ext``.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Letters: N images, C channels, G groups, k the kernel's side, s the scale, H x W
the small map. Half types are computed in float32. Python loops over the k*k taps only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from transfer.mm.ops.boxes import widen


def _framed(features: Tensor, kernel_size: int) -> Tensor:
    """``features [N,C,H,W]`` within a frame of zeros half a kernel wide."""
    return functional.pad(features, [kernel_size // 2] * 4)


def _patches(framed: Tensor, kernel_size: int, group_size: int) -> Iterator[Tensor]:
    """The k*k views ``[N,G,C/G,H,W]`` of :func:`_framed` maps, one for each tap of the kernel."""
    height, width = (side - kernel_size + 1 for side in framed.shape[2:])
    grouped = framed.unflatten(1, (group_size, -1))
    for row in range(kernel_size):
        for column in range(kernel_size):
            yield grouped[..., row : row + height, column : column + width]


def _apart(maps: Tensor, scale_factor: int) -> Tensor:
    """``[N,M,s*H,s*W]`` as ``[N,M,s*s,H,W]``: one small map for each place within a cell."""
    # not pixel_unshuffle, which leaves a batch of no maps as large as it was
    cells = maps.unflatten(3, (-1, scale_factor)).unflatten(2, (-1, scale_factor))
    return cells.permute(0, 1, 3, 5, 2, 4).flatten(2, 3)  # [N,M,H,s,W,s] before


def _together(maps: Tensor, scale_factor: int) -> Tensor:
    """The inverse of :func:`_apart`."""
    cells = maps.unflatten(2, (scale_factor, scale_factor))  # [N,M,s,s,H,W]
    return cells.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)


def _weights(masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """``masks [N,G*k*k,s*H,s*W]`` as ``[N,G,k*k,s*s,H,W]``, not narrower than float32."""
    return _apart(widen(masks), scale_factor).unflatten(1, (group_size, kernel_size**2))


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Each cell of ``output [N,C,s*H,s*W]`` becomes the sum of the k x k ``features [N,C,H,W]``
    round its source cell, weighted by its own column of ``masks [N,G*k*k,s*H,s*W]`` (eq. 2).
    """
    framed = _framed(widen(features), kernel_size)
    weights = _weights(masks, kernel_size, group_size, scale_factor)
    total: Tensor | None = None
    for tap, patch in enumerate(_patches(framed, kernel_size, group_size)):
        factors = patch[:, :, :, None], weights[:, :, None, tap]
        total = factors[0] * factors[1] if total is None else total.addcmul_(*factors)
    assert total is not None  # kernel_size >= 1, which mmcv asserts
    output.copy_(_together(total.flatten(1, 2), scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the gradients of :func:`carafe_naive_forward` into ``bottom_grad`` (features) and
    ``mask_grad``.
    """
    framed = _framed(widen(features), kernel_size)
    weights = _weights(masks, kernel_size, group_size, scale_factor)
    gradient = _apart(widen(top_grad), scale_factor).unflatten(1, (group_size, -1))
    framed_grad, to_weights = torch.zeros_like(framed), torch.empty_like(weights)
    sources = _patches(framed, kernel_size, group_size)
    targets = _patches(framed_grad, kernel_size, group_size)
    for tap, (source, target) in enumerate(zip(sources, targets, strict=True)):
        to_weights[:, :, tap] = (gradient * source[:, :, :, None]).sum(2)
        target += (gradient * weights[:, :, None, tap]).sum(3)
    edge = kernel_size // 2
    height, width = features.shape[2:]
    bottom_grad.copy_(framed_grad[..., edge : edge + height, edge : edge + width])
    mask_grad.copy_(_together(to_weights.flatten(1, 2), scale_factor))


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_forward`. ``rfeatures`` keeps the features for
    :func:`carafe_backward`, which mmcv gives it in their place; ``routput`` and ``rmasks`` are
    scratch of mmcv's kernel and not used.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As :func:`carafe_naive_backward`; the other names in ``r`` are scratch of mmcv's kernel and
    not used.
    """
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )


KERNELS = (carafe_naive_forward, carafe_naive_backward, carafe_forward, carafe_backward)
