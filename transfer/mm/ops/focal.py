"""The sigmoid focal loss for the stand-in of ``mmcv._ext``.

Argument names and order, and which tensors are written in place, are those of mmcv's C++ binding
(``pybind.cpp``). Letters: R rows, K classes. Half types are computed in float32.
No config of mmdet or mmseg calls the softmax one: it raises.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from transfer.mm.ops.boxes import widen


def _sigmoid_focal_terms(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``p``, ``log p``, ``log (1 - p)`` and which entries are the target's, all ``[R,K]``; a target
    of K is background.
    """
    wide = widen(logits)
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    return wide.sigmoid(), functional.logsigmoid(wide), functional.logsigmoid(-wide), positive


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (Lin et al. 2017, eq. 5) of logits ``input [R,K]`` into ``output [R,K]``;
    ``weight [K]`` or empty.

    Exact also where mmcv's kernel clamps the probability at 1e-38.
    """
    p, log_p, log_q, positive = _sigmoid_focal_terms(input, target)
    loss = torch.where(positive, -alpha * (1 - p) ** gamma * log_p, -(1 - alpha) * p**gamma * log_q)
    output.copy_(loss * weight[target, None] if weight.numel() else loss)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The derivative of :func:`sigmoid_focal_loss_forward` with respect to ``input``, into
    ``grad_input [R,K]``.
    """
    p, log_p, log_q, positive = _sigmoid_focal_terms(input, target)
    gradient = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * (1 - p - gamma * p * log_p),
        -(1 - alpha) * p**gamma * (gamma * (1 - p) * log_q - p),
    )
    grad_input.copy_(gradient * weight[target, None] if weight.numel() else gradient)


KERNELS = (sigmoid_focal_loss_forward, sigmoid_focal_loss_backward)
