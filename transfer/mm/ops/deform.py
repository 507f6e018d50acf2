"""Deformable convolutions and deformable attention for the stand-in of ``mmcv._ext``.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Letters: N images, C channels, G deformable groups. Half types are computed in
float32.
"""

from __future__ import annotations

from operator import itemgetter

import torch
import torchvision  # noqa: F401  (its import registers torch.ops.torchvision)
from torch import Tensor

from transfer.mm.ops.boxes import widen

# A displacement beyond any map, and small enough for the kernels' integers.
FAR = 2.0**24


def _convolve(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> Tensor:
    """Deformable convolution (Dai et al. 2017; with ``mask``, Zhu et al. 2019) by torchvision's
    kernel, ``[N,C_out,H_out,W_out]``. A sample whose offset is not finite is zero, as in mmcv.
    """
    return torch.ops.torchvision.deform_conv2d(
        *_operands(input, weight, offset, mask, bias), *geometry, mask is not None
    )


def _convolve_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    geometry: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Gradients of :func:`_convolve` with respect to input, weight, offset, mask and bias.

    That of an offset that is not a number is none either: the zero in its place must not hide a
    broken step from the optimizer's guard. (mmcv's kernel reads outside the map there.)
    """
    gradients = list(
        torch.ops.torchvision._deform_conv2d_backward(
            widen(grad_output),
            *_operands(input, weight, offset, mask, bias),
            *geometry,
            mask is not None,
        )
    )
    gradients[2] = gradients[2].masked_fill(offset.isnan(), torch.nan)
    return tuple(gradients)


def _operands(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """The five tensors torchvision's kernel takes, in one type: an absent mask is empty, an absent
    bias zero; offsets that are not finite point beyond the map, for the kernel reads at the
    "integer" of a NaN, anywhere in memory.
    """
    wide = widen(input)
    if mask is None:
        mask = wide.new_zeros(wide.shape[0], 1)
    if bias is None:
        bias = wide.new_zeros(weight.shape[0])
    offset = widen(offset).nan_to_num(nan=FAR, posinf=FAR, neginf=-FAR)
    return wide, *(tensor.to(wide.dtype) for tensor in (weight, offset, mask, bias))


# What torchvision's kernel takes after the tensors, of what mmcv sends by name.
_plain = itemgetter(
    "dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group"
)
_modulated = itemgetter(
    "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w",
    "group", "deformable_group",
)  # fmt: skip


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **sizes: int,
) -> None:
    """Deformable convolution of ``input [N,C,H,W]`` with ``offset [N, 2*G*kH*kW, H_out, W_out]``
    (y, x) into ``output``.

    ``sizes``: ``kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group,
    im2col_step``, which mmcv sends by name. ``columns``, ``ones`` and ``im2col_step`` are scratch
    of mmcv's kernel and not used; the kernel's sides are those of the weight.
    """
    output.copy_(_convolve(input, weight, offset, None, None, _plain(sizes)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **sizes: int,
) -> None:
    """Writes the gradients of :func:`deform_conv_forward` into ``gradInput`` and ``gradOffset``."""
    gradients = _convolve_backward(gradOutput, input, weight, offset, None, None, _plain(sizes))
    gradInput.copy_(gradients[0])
    gradOffset.copy_(gradients[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **sizes: int,
) -> None:
    """Adds ``scale`` times the weight's gradient to ``gradWeight [C_out, C/group, kH, kW]``."""
    # Only the shape of the weight enters its gradient; mmcv does not pass the weight itself.
    weight = torch.zeros_like(gradWeight)
    gradients = _convolve_backward(gradOutput, input, weight, offset, None, None, _plain(sizes))
    gradWeight += scale * gradients[1]


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    """Modulated deformable convolution: as :func:`deform_conv_forward`, times
    ``mask [N, G*kH*kW, H_out, W_out]``. ``sizes``: ``kernel_h, kernel_w, stride_h, ..., dilation_w,
    group, deformable_group``, sent by name.
    """
    used_bias = bias if with_bias else None
    output.copy_(_convolve(input, weight, offset, mask, used_bias, _modulated(sizes)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **sizes: int,
) -> None:
    """Writes the gradients of :func:`modulated_deform_conv_forward` into the five ``grad_*`` of its
    inputs.
    """
    operands = (input, weight, offset, mask, bias if with_bias else None)
    gradients = _convolve_backward(grad_output, *operands, _modulated(sizes))
    targets = [grad_input, grad_weight, grad_offset, grad_mask]
    for target, gradient in zip(targets, gradients, strict=False):
        target.copy_(gradient)
    if with_bias:
        grad_bias.copy_(gradients[4])


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al. 2021) by mmcv's own PyTorch function; mmcv asks
    for it on CUDA only.

    Shapes: ``value [N, keys, heads, dim]``, ``value_spatial_shapes [levels, 2]``,
    ``sampling_locations [N, queries, heads, levels, points, 2]``, ``attention_weights`` the same
    without the 2; returns ``[N, queries, heads*dim]``.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    with torch.autocast(value.device.type, enabled=False):
        output = multi_scale_deformable_attn_pytorch(
            widen(value),
            value_spatial_shapes.tolist(),  # once to the CPU, instead of once per level
            widen(sampling_locations),
            widen(attention_weights),
        )
    return output.to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Writes the gradients of :func:`ms_deform_attn_forward` into the three ``grad_*`` of its
    inputs.
    """
    inputs = [
        tensor.detach().requires_grad_()
        for tensor in (value, sampling_locations, attention_weights)
    ]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            inputs[0],
            value_spatial_shapes,
            value_level_start_index,
            inputs[1],
            inputs[2],
            im2col_step,
        )
    gradients = torch.autograd.grad(output, inputs, grad_output)
    for target, gradient in zip(
        (grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True
    ):
        target.copy_(gradient)


KERNELS = (
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    ms_deform_attn_forward,
    ms_deform_attn_backward,
)
