"""mmcv's synchronised batch normalisation (``MMSyncBN``) for the stand-in of ``mmcv._ext``.

The five steps of one device; mmcv itself sums over the processes between them. Argument names and
order, and which tensors are written in place, are those of mmcv's C++ binding (``pybind.cpp``).
Letters: N images, C channels, S places. Half types are computed in float32.
"""

from __future__ import annotations

from torch import Tensor

from transfer.mm.ops.boxes import widen


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """The mean of ``input [N,C,S]`` over this device's images and places into ``mean [C]``."""
    mean.copy_(widen(input).mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """The mean square distance of ``input [N,C,S]`` from the processes' ``mean [C]`` into
    ``var [C]``.
    """
    var.copy_((widen(input) - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Writes ``norm [N,C,S]`` = (input - mean) / std, ``std [C]`` and ``output`` = norm * weight +
    bias, and moves the running statistics (the variance without bias) by ``momentum``.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((widen(input) - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None])
    if running_mean is None or running_var is None:
        return
    count = input.shape[0] * input.shape[2] * group_size
    unbiased = var * count / (count - 1) if count > 1 else var
    running_mean += momentum * (mean - running_mean)
    running_var += momentum * (unbiased - running_var)


def sync_bn_backward_param(
    grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor
) -> None:
    """The gradients of weight and bias ``[C]`` from this device's ``grad_output [N,C,S]``."""
    gradient = widen(grad_output)
    grad_weight.copy_((gradient * norm).sum((0, 2)))
    grad_bias.copy_(gradient.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """The gradient of the input into ``grad_input [N,C,S]``, from the processes' mean
    ``grad_weight`` and ``grad_bias`` (Ioffe and Szegedy 2015, section 3).
    """
    count = norm.shape[0] * norm.shape[2]
    common = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((weight / std)[:, None] * (widen(grad_output) - common))


KERNELS = (
    sync_bn_forward_mean,
    sync_bn_forward_var,
    sync_bn_forward_output,
    sync_bn_backward_param,
    sync_bn_backward_data,
)
